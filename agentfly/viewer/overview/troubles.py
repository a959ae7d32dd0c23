"""What is wrong with a run, the worst first, each with a link to the chains that show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentfly.viewer.charts import number_text
from agentfly.viewer.index import Filters
from agentfly.viewer.index.index import State
from agentfly.viewer.index.query import ALARMS
from agentfly.viewer.overview.cells import Cells
from agentfly.viewer.runs.facts import is_number
from agentfly.viewer.runs.metric_names import meaning_of
from agentfly.viewer.runs.metrics import Metrics
from agentfly.viewer.runs.notices import LogNotices, Notice

Level = Literal["bad", "mid", "note"]

_OFTEN = 0.1  # share of the chains from which on a sign of trouble is no longer a detail
_FLAT, _IDLE, _DIFFERENT = 0.7, 0.5, 0.1
_LAST = 10  # steps in which trouble is news

# Chains that show what a health metric is about.
_SHOWN_BY: Mapping[str, Filters] = {
    "parse_failures": Filters(alarm="malformed"),
    "answer_without_edit": Filters(alarm="no_result"),
    "repeat_loops": Filters(sort="calls", down=True),
    "tool_calls": Filters(sort="calls", down=False),
    "look_calls": Filters(sort="calls", down=True),
    "no_op_edits": Filters(sort="score", down=False),
    "mask_coverage": Filters(sort="score", down=False),
}


@dataclass(frozen=True)
class Trouble:
    """Something that is wrong.

    Attributes:
        level: "bad" needs action, "mid" a look, "note" is good to know.
        words: what is wrong, and where known what to do.
        chains: that show it; None where no chain does.
        count: "12 of 128 chains", or "".
    """

    level: Level
    words: str
    chains: Filters | None = None
    count: str = ""


def troubles_of(cells: Cells, metrics: Metrics, logs: LogNotices, state: State, unfinished: bool) -> list[Trouble]:
    """Return what is wrong with a run, the worst first.

    Args:
        cells: of its chains.
        metrics: of its steps.
        logs: warnings of its trainer.
        state: of its index.
        unfinished: its last step is not there yet.
    """
    found = [*_of_log(logs, unfinished), *_of_metrics(metrics, cells), *_of_chains(cells), *_of_files(metrics, state)]
    order = ("bad", "mid", "note")
    return sorted(found, key=lambda trouble: order.index(trouble.level))


def troubles_of_trial(found: Mapping[str, Any]) -> list[Trouble]:
    """Return what a trial says is wrong.

    Args:
        found: content of its `trial.json`.
    """
    troubles = []
    for breach in _mappings(found.get("breaches")):
        name = str(breach.get("metric", "?"))[:80]
        value = metrics.get(f"health/{name}") if isinstance(metrics := found.get("metrics"), Mapping) else None
        shown = f" is {number_text(value)}," if is_number(value) else " is"
        words = f"{name.replace('_', ' ')}{shown} {str(breach.get('words') or 'outside its limits')[:80]}"
        troubles.append(Trouble("mid", words, _SHOWN_BY.get(name)))
    lost: dict[str, int] = {}
    for chain in _mappings(found.get("lost")):
        words = f"{chain.get('reason', 'lost')}: {chain.get('message', '')}"[:300]
        lost[words] = lost.get(words, 0) + 1
    troubles += [Trouble("bad", words, None, f"{count} chains") for words, count in lost.items()]
    if isinstance(unfit := found.get("unfit"), str) and unfit:
        troubles.insert(0, Trouble("bad", f"training would not learn from this: {unfit[:300]}"))
    return troubles


def _of_log(logs: LogNotices, unfinished: bool) -> Iterator[Trouble]:
    if logs.error and unfinished:
        yield Trouble("bad", f"the last error in the log: {logs.error}")
    for notice in logs.notices:
        again = f"{notice.count} times" if notice.count > 1 else ""
        yield Trouble("mid", notice.text, _chains_of(notice), again)


def _chains_of(notice: Notice) -> Filters | None:
    if notice.step is None:
        return None
    shown = _SHOWN_BY.get(notice.metric, Filters())
    return Filters(alarm=shown.alarm, sort=shown.sort, down=shown.down, step=notice.step, validate=False)


def _of_metrics(metrics: Metrics, cells: Cells) -> Iterator[Trouble]:
    steps = metrics.steps
    since = steps[-min(_LAST, len(steps))] if steps else 0
    recent = Filters(step=since, step_to=steps[-1], validate=False) if steps and cells.trained.cells else None
    for name, step in metrics.not_finite.items():
        about = meaning_of(name)[1]
        words = f"{name[:80]} was not a number at step {step}"
        yield Trouble(
            "bad" if name.startswith(("actor/", "critic/")) else "note", words + (f": {about}" if about else "")
        )
    alarms = [step for step, value in metrics.get("audit/alarm") if value > 0]
    if alarms:
        words = "the reward rose while the second evaluator’s score fell: the policy may be fooling its judge"
        yield Trouble("bad", words, Filters(step=int(alarms[-1]), validate=False, sort="score"), f"{len(alarms)} steps")
    different = metrics.last("training/rollout_probs_diff_mean")
    if different is not None and different > _DIFFERENT:
        words = f"rollout and trainer disagree: their probabilities differ by {number_text(different)} on average"
        yield Trouble("bad", words)
    yield from _of_rollouts(metrics, cells, since, recent)


def _of_rollouts(metrics: Metrics, cells: Cells, since: float, recent: Filters | None) -> Iterator[Trouble]:
    """Yield what is wrong with the rollouts since a step: chains lost, prompts that teach nothing, waiting."""
    lost = [(step, value) for step, value in metrics.get("chains/lost_share") if value > 0 and step >= since]
    if lost:
        worst = max(value for _, value in lost)
        reasons = [
            name.replace("_", " ") for name, points in metrics.under("chains/lost/").items() if points[-1][0] >= since
        ]
        why = f", because of {', '.join(reasons)}" if reasons else ""
        words = f"chains are lost to faults{why}: at worst {worst:.0%} of a step"
        yield Trouble(
            "bad" if worst > _OFTEN else "mid", words, Filters(alarm="failed"), f"in {len(lost)} of the last steps"
        )
    flat = _recent(metrics, "reward/group/zero_variance", since)
    if flat is not None and flat > _FLAT:
        hard, easy = (_recent(metrics, f"reward/group/{name}", since) or 0.0 for name in ("all_worst", "all_best"))
        why = "most are too hard: begin with easier tasks" if hard > easy else "most are too easy: take harder tasks"
        yield Trouble(
            "mid", f"{flat:.0%} of the prompts teach nothing, for their chains have one reward; {why}", recent
        )
    idle = _recent(metrics, "wait/policy_idle", since)
    if idle is not None and idle > _IDLE:
        because = {
            tool: _recent(metrics, f"wait/because/{tool}", since) or 0.0 for tool in metrics.under("wait/because/")
        }
        tool = max(because, key=lambda name: because[name], default="")
        words = f"the policy waits for tools for {idle:.0%} of the rollout" + (
            f", most of all for {tool}" if tool else ""
        )
        yield Trouble("note", words, Filters(tool=tool, sort="seconds") if tool in cells.tools else None)


def _of_chains(cells: Cells) -> Iterator[Trouble]:
    whole = cells.sums.chains
    scored = cells.sums.scored > 0
    for name, count in cells.alarms.items():
        # Runs of an agent without an evaluator have no scores at all.
        if name == "unscored" and not scored:
            continue
        level: Level = "mid" if count / whole >= _OFTEN else "note"
        yield Trouble(level, ALARMS.get(name, name), Filters(alarm=name), f"{count} of {whole} chains")


def _of_files(metrics: Metrics, state: State) -> Iterator[Trouble]:
    if state.damaged:
        yield Trouble("mid", "lines of the trajectories are damaged and left out", None, _lines(state.damaged))
    if metrics.damaged:
        yield Trouble("note", "lines of metrics.jsonl are damaged and left out", None, _lines(metrics.damaged))


def _recent(metrics: Metrics, name: str, since: float) -> float | None:
    values = [value for step, value in metrics.get(name) if step >= since]
    return sum(values) / len(values) if values else None


def _lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count} lines"


def _mappings(found: Any) -> list[Mapping[str, Any]]:
    return [item for item in found if isinstance(item, Mapping)][:100] if isinstance(found, list) else []
