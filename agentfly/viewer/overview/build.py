"""Put the overview of a run together from its index, its metrics and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from agentfly.viewer.charts import Chart, number_text
from agentfly.viewer.index import Filters, Row
from agentfly.viewer.index.index import State
from agentfly.viewer.opened import OpenRun
from agentfly.viewer.overview import figures, texts
from agentfly.viewer.overview.cells import Cells
from agentfly.viewer.overview.curves import Curves, MetricRow, OtherRun, Section, metric_rows, sections_of, split_glance
from agentfly.viewer.overview.examples import Examples, examples_of, last_steps
from agentfly.viewer.overview.gains import Gain, by_step, pass_gains, reward_gains, validation_gains
from agentfly.viewer.overview.progress import Progress, progress_of
from agentfly.viewer.overview.sentences import Sentence, of_gain, of_row, of_score, of_types
from agentfly.viewer.overview.troubles import Trouble, troubles_of, troubles_of_trial
from agentfly.viewer.runs.facts import (
    Difference,
    Origin,
    Settings,
    differences,
    is_number,
    origin_of,
    read_object,
    settings_of,
)
from agentfly.viewer.runs.metrics import Metrics
from agentfly.viewer.runs.notices import LogNotices

KINDS: Mapping[str, str] = {
    "training": "Training",
    "evaluation": "Evaluation",
    "quickstart": "Quickstart",
    "trial": "Trial of a recipe",
    "chains": "Chains of an agent",
    "generate": "Image generation",
    "director-generator": "Directors and generators",
}
# Of hundreds of settings, those that people look for: name shown, and the names under which it is kept.
_CHOSEN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("model", ("agentfly.model", "model")),
    ("data", ("agentfly.data.train", "data")),
    ("held-out data", ("agentfly.data.validation", "split")),
    ("agent", ("agentfly.agent", "agent")),
    ("algorithm", ("algorithm.adv_estimator", "quickstart.algorithm")),
    ("evaluator", ("agentfly.reward_function", "agentfly.evaluator", "evaluator")),
    ("engines", ("agentfly.engines", "engine")),
    ("seed", ("agentfly.seed", "seed", "quickstart.seed")),
    ("prompts a step", ("data.train_batch_size",)),
    ("chains a prompt", ("actor_rollout_ref.rollout.n", "trial.samples")),
    ("learning rate", ("actor_rollout_ref.actor.optim.lr",)),
    ("temperature", ("actor_rollout_ref.rollout.temperature", "temperature")),
    ("steps", ("trainer.total_training_steps",)),
    ("device", ("agentfly.device",)),
    ("recipe", ("trial.recipe",)),
)


@dataclass(frozen=True)
class Table:
    """A table of scores by task type.

    Attributes:
        title, about: of the table.
        before, after: heads of the columns; `before` is "" where there is one column.
        rows: all tasks first.
    """

    title: str
    about: str
    before: str
    after: str
    rows: Sequence[figures.TypeRow]


@dataclass(frozen=True)
class Overview:
    """What the page shows. Empty parts are left out of it.

    Attributes:
        kind: of run, in words.
        tags: a few settings that tell runs apart.
        progress: how far it is.
        sentences: did it learn.
        tiles: value and label.
        tables: at which tasks.
        examples: what a failure looks like.
        troubles: what is wrong.
        glance: the charts that say most, shown first.
        sections: the other charts.
        metrics: all of them.
        stops, tools: how chains ended, and what they called; where no chart shows it.
        evaluators: of an evaluation.
        chosen: settings that people look for.
        settings: all.
        origin: code and machine.
    """

    kind: str
    tags: tuple[str, ...]
    progress: Progress
    sentences: tuple[Sentence, ...]
    tiles: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]
    examples: tuple[Examples, ...]
    troubles: tuple[Trouble, ...]
    glance: tuple[Chart, ...]
    sections: tuple[Section, ...]
    metrics: tuple[MetricRow, ...]
    stops: tuple[figures.ShareRow, ...]
    tools: tuple[figures.ShareRow, ...]
    evaluators: tuple[figures.Evaluator, ...]
    chosen: tuple[tuple[str, str], ...]
    settings: Settings
    origin: Origin


class Builder:
    """Makes the overview of one run as it is now.

    Args:
        opened: the run.
        state: of its index.
        logs: warnings of its trainer.
        other: run whose curves are drawn beside; None for none.
    """

    def __init__(self, opened: OpenRun, state: State, logs: LogNotices, other: OpenRun | None = None) -> None:
        self._opened, self._state, self._logs, self._other = opened, state, logs, other
        self._run, self._index = opened.run, opened.index
        self._metrics: Metrics = opened.metrics()
        self._cells = Cells.read(opened.index)
        self._settings = settings_of(opened.run)
        self._progress = progress_of(opened, state, logs)
        self._summary = read_object(opened.run.folder / "summary.json")

    def overview(self) -> Overview:
        """Return the overview."""
        trained = self._run.training is not None
        troubles = troubles_of(self._cells, self._metrics, self._logs, self._state, self._progress.unfinished)
        if self._run.kind == "trial":
            troubles = troubles_of_trial(self._trial) + troubles
        chosen = tuple((label, value) for label, names in _CHOSEN if (value := self._settings.get(*names)))
        shown = Cells([]) if trained else self._cells
        glance, sections = split_glance(self._sections() if trained else ())
        return Overview(
            kind=KINDS.get(self._run.kind, self._run.kind),
            tags=tuple(
                texts.short(value) for label, value in chosen if label in ("model", "data", "algorithm", "evaluator")
            ),
            progress=self._progress,
            sentences=tuple(self._sentences()),
            tiles=tuple(self._tiles()),
            tables=tuple(table for table in self._tables() if table.rows),
            examples=tuple(self._with_kept_images(each) for each in self._examples()),
            troubles=tuple(troubles),
            glance=glance,
            sections=sections,
            metrics=tuple(metric_rows(self._shown_metrics)),
            stops=tuple(figures.stop_rows(shown)),
            tools=tuple(figures.tool_rows(shown)),
            evaluators=tuple(figures.evaluators_of(self._summary)) if self._run.kind in ("evaluation", "trial") else (),
            chosen=chosen,
            settings=self._settings,
            origin=origin_of(self._run, self._summary),
        )

    @cached_property
    def _trial(self) -> dict[str, Any]:
        return read_object(self._run.folder / "trial.json")

    @cached_property
    def _shown_metrics(self) -> Metrics:
        """The metrics of the steps, or those of a trial, which has one."""
        found = self._trial.get("metrics") if self._run.kind == "trial" else None
        if not isinstance(found, Mapping):
            return self._metrics
        return Metrics({str(k)[:200]: ((0.0, float(v)),) for k, v in found.items() if is_number(v)})

    @cached_property
    def _rewards(self) -> dict[str | None, Gain]:
        return reward_gains(self._index, self._cells.trained.steps)

    @cached_property
    def _held_out(self) -> dict[str | None, Gain]:
        return validation_gains(self._index, self._cells.validated.steps)

    @cached_property
    def _passes(self) -> dict[str | None, Gain]:
        return pass_gains(self._index, "greedy") if self._run.kind == "quickstart" else {}

    def _sentences(self) -> list[Sentence]:
        found = []
        rows = figures.quickstart_rows(self._summary, "greedy")
        if self._run.kind == "quickstart" and (rows or None in self._passes):
            found.append(of_row(rows[0]) if rows else of_gain(self._passes[None]))
        gains = [gains for gains in (self._held_out, self._rewards) if None in gains]
        for place, each in enumerate(gains):
            found.append(of_gain(each[None]))
            found += of_types(each) if place == 0 else []
        steps = self._cells.trained.by_step()
        if not self._rewards and steps:
            step, sums = next(iter(steps.items()))
            mean = f": the mean reward is {number_text(sums.reward / sums.rewarded)}" if sums.rewarded else ""
            found.append(Sentence(f"There is one step so far, step {step}{mean}."))
        if not found and (rows := figures.summary_rows(self._summary)) and rows[0].after:
            found.append(of_score(rows[0]))
        if not found and (sums := self._cells.sums).scored:
            success = sums.success or 0.0
            score = f"The mean score is {number_text(sums.mean_score)} of 100"
            found.append(Sentence(f"{score}; {success:.0%} of {sums.scored} scored chains succeed."))
        return found

    def _tiles(self) -> list[tuple[str, str]]:
        sums = self._cells.sums
        found = self._training_tiles() if self._run.training is not None else self._chain_tiles()
        if self._run.kind == "quickstart":
            found = [*self._pass_tiles(), *found]
        tiles = [*found, (f"{sums.chains:,}".replace(",", " "), "chains")]
        return [(value, label) for value, label in tiles if value is not None]

    def _training_tiles(self) -> list[tuple[str | None, str]]:
        cells, recent, progress = self._cells, self._cells.trained, self._progress
        if steps := recent.steps:
            first = last_steps(steps)[0].step or 0
            recent = recent.only(lambda cell: cell.step is not None and cell.step >= first)
        sums, last = recent.sums, cells.validated.steps[-1:]
        logged = self._metrics.last("reward/mean", "critic/rewards/mean")
        held_out = cells.validated.only(lambda cell: cell.step in last).sums.mean_score
        return [
            (str(progress.step), "step" + (f" of {progress.total}" if progress.total else "")),
            (texts.number(sums.reward / sums.rewarded if sums.rewarded else logged), "reward, last steps"),
            (texts.share(sums.success), "success, last steps"),
            (texts.number(held_out), "held-out score, last"),
            (texts.number(self._metrics.last("timing_s/step")), "seconds of a step"),
        ]

    def _chain_tiles(self) -> list[tuple[str | None, str]]:
        sums = self._cells.sums
        return [
            (texts.number(sums.mean_score), "mean score"),
            (texts.share(sums.success), "success"),
            (texts.number(sums.a_chain("seconds")), "seconds of a chain"),
            (texts.number(sums.a_chain("tokens") or None), "tokens of a chain"),
            (texts.number(sums.a_chain("calls")), "tool calls of a chain"),
        ]

    def _pass_tiles(self) -> list[tuple[str | None, str]]:
        trained = self._cells.only(lambda cell: cell.label == "trained, greedy").sums
        before = self._cells.only(lambda cell: cell.label == "warm start, greedy").sums
        if not trained.chains:
            return []
        return [
            (
                f"{texts.share(before.success) or '–'} → {texts.share(trained.success) or '–'}",
                "held-out success, greedy",
            ),
            (texts.number(number) if is_number(number := self._summary.get("minutes")) else None, "minutes"),
        ]

    def _tables(self) -> list[Table]:
        if self._run.kind == "quickstart":
            return [*self._quickstart_tables(), *self._training_tables()]
        if self._run.training is not None:
            return self._training_tables()
        if not self._cells.sums.scored and not self._summary:
            return []
        rows = figures.summary_rows(self._summary) or figures.cell_rows(self._cells)
        about = "95 % intervals over tasks" if self._summary else "so far; intervals come with the summary at the end"
        return [Table("Score by task type", about, "", "score", rows)]

    def _quickstart_tables(self) -> list[Table]:
        tables = []
        parts = {row["label"]: row["part"] for row in self._index.query("SELECT part, label FROM parts")}
        for mode in ("greedy", "sampled"):
            part = parts.get(f"trained, {mode}")
            rows = figures.quickstart_rows(self._summary, mode)
            if not rows:
                gains = self._passes if mode == "greedy" else pass_gains(self._index, mode)
                of_pass = self._cells.only(lambda cell, mode=mode: cell.label == f"trained, {mode}")  # type: ignore[misc]
                rows = figures.gain_rows(gains, Filters(), of_pass)
            rows = [replace(row, chains=replace(row.chains, part=part)) for row in rows]
            about = f"{mode} pass over held-out tasks, the same before and after; 95 % intervals over tasks"
            tables.append(Table(f"Before and after, {mode}", about, "warm start", "trained", rows))
        rows, about = figures.blanked_rows(self._summary, parts.get("trained, blanked"))
        tables.append(Table("Does it look?", about, "with images", "blanked", rows))
        return tables

    def _training_tables(self) -> list[Table]:
        tables = []
        if self._held_out:
            some, last = self._held_out[None], self._cells.validated.steps[-1]
            of_last = self._cells.validated.only(lambda cell: cell.step == last)
            rows = figures.gain_rows(self._held_out, Filters(step=last, validate=True), of_last)
            about = "score of the validation on the same tasks; 95 % intervals over tasks"
            tables.append(Table("Held-out score by task type", about, some.first, some.last, rows))
        if self._rewards:
            some = self._rewards[None]
            filters, _ = last_steps(self._cells.trained.steps)
            recent = self._cells.trained.only(lambda cell: cell.step is not None and cell.step >= (filters.step or 0))
            rows = figures.gain_rows(self._rewards, filters, recent, scale=100)
            about = "reward × 100 of trained chains; 95 % intervals over prompts"
            tables.append(Table("Reward by task type", about, some.first, some.last, rows))
        return tables

    def _examples(self) -> tuple[Examples, ...]:
        if self._run.kind == "quickstart":
            for row in self._index.query("SELECT part FROM parts WHERE label = 'trained, greedy'"):
                return examples_of(
                    self._index, Filters(part=row["part"]), "the trained policy on held-out tasks", self._has_images
                )
        if steps := self._cells.trained.steps:
            filters, words = last_steps(steps)
            return examples_of(self._index, filters, words, self._has_images)
        return examples_of(self._index, Filters(), "all chains", self._has_images)

    def _has_images(self, row: Row) -> bool:
        images = self._opened.images(row.part)
        return row.source in images and (row.final is None or row.final in images)

    def _with_kept_images(self, examples: Examples) -> Examples:
        """Return examples without the images that were not kept."""

        def kept(part: int, handle: str | None) -> str | None:
            return handle if handle in self._opened.images(part) else None

        rows = [replace(r, source=kept(r.part, r.source), final=kept(r.part, r.final)) for r in examples.rows]
        return replace(examples, rows=tuple(rows), images=any(row.source or row.final for row in rows))

    def _sections(self) -> tuple[Section, ...]:
        rewards = by_step(self._index, validate=False, column="reward")
        held_out = by_step(self._index, validate=True, column="score")
        other = None
        if self._other is not None:
            theirs = by_step(self._other.index, validate=True, column="score")
            other = OtherRun(self._other.run.name, self._other.metrics(), theirs)
        return sections_of(Curves(self._metrics, self._cells, rewards, held_out, other))


def compare(mine: Overview, other: OpenRun) -> list[Difference]:
    """Return the settings, versions and commits in which two runs differ."""
    theirs = origin_of(other.run, read_object(other.run.folder / "summary.json"))
    return differences(mine.settings, settings_of(other.run), mine.origin, theirs)
