"""Score finished trajectories with other evaluators, and run their tool calls again, without the agent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from agentfly.agents.trajectory import Trajectory
from agentfly.agents.trajectory_file import IMAGES
from agentfly.aio import gather_or_cancel
from agentfly.datasets.task import EditTask
from agentfly.errors import ConfigError
from agentfly.evaluation.markdown import table
from agentfly.evaluation.pages import write_pages
from agentfly.evaluation.preflight import FIRST_TASKS
from agentfly.evaluation.reexecution import Difference, Reexecution, reexecute, totals
from agentfly.evaluation.run import EvaluationRun, OnRecord
from agentfly.evaluation.run_folder import RunFolder
from agentfly.evaluation.scoring import Scorer, read_specs
from agentfly.evaluation.settings import refuse_keys
from agentfly.evaluation.trajectory_reader import Recorded, Recording, read_recording
from agentfly.files import write_text
from agentfly.images import ImageStore
from agentfly.settings import Settings
from agentfly.vision import make_engines

_SHOWN = 100


class ReplaySettings(Settings):
    """What `agentfly replay` can be told.

    Attributes:
        run: folder or file of the trajectories.
        evaluator: specs, the headline first; none for no scoring.
        re_execute: carry out the recorded tool calls again.
        engine: what works behind the tools then, by name or as a mapping of engines.
        images: folder of the images; without it, the one beside the trajectories.
        data, split, seed, root, data_options: data set that knows the tasks, for trajectories that do not.
        limit: chains at most.
        out: folder of the results; `replay/` beside the trajectories without it.
        concurrency: chains at once.
        timeout: seconds for one tool call.
        gallery: tasks in the gallery at most.
    """

    written_as: ClassVar[str] = "--"

    run: Path
    evaluator: tuple[str | Mapping[str, Any], ...] = ()
    re_execute: bool = False
    engine: str | Mapping[str, Any] | None = None
    images: Path | None = None
    data: str | None = None
    split: str | None = None
    seed: int = 0
    root: Path | None = None
    data_options: Mapping[str, Any] = Field(default_factory=dict)
    limit: int | None = Field(None, ge=1)
    out: Path | None = None
    concurrency: int = Field(8, ge=1)
    timeout: float = Field(600.0, gt=0)
    gallery: int = Field(200, ge=0)

    @field_validator("evaluator", mode="before")
    @classmethod
    def _one_or_many(cls, given: Any) -> Any:
        return (given,) if isinstance(given, (str, Mapping)) else given


@dataclass(frozen=True)
class ReplayResult:
    """What a replay gave: the summary of the new scores, the totals of the re-execution, and where they are."""

    out: Path
    summary: Mapping[str, Any] | None = None
    reexecution: Mapping[str, Any] | None = None

    @property
    def differs(self) -> bool:
        """Whether carrying out the calls again gave anything else than was recorded."""
        return self.reexecution is not None and self.reexecution["differences"] > 0


async def replay(settings: ReplaySettings, on_record: OnRecord = lambda record, resumed: None) -> ReplayResult:
    """Replay a recording; scoring goes on where an earlier start with the same evaluators ended.

    Raises:
        ConfigError: nothing to do, no trajectories, or no images.
    """
    if not settings.evaluator and not settings.re_execute:
        raise ConfigError("nothing to do: give --evaluator to score again, --re-execute to run the tool calls again")
    recording = await asyncio.to_thread(read_recording, settings.run, settings.images, settings.limit)
    out = settings.out or recording.path.parent / "replay"
    store = ImageStore(out / IMAGES)
    store.look_in(recording.store())
    recording = await asyncio.to_thread(_completed, recording, settings, store)
    executed = await _execute(recording.chains, store, settings, out) if settings.re_execute else None
    scored = await _score(recording, store, settings, out, on_record) if settings.evaluator else None
    return ReplayResult(out, scored, executed)


class RecordedAgent:
    """A `TaskAgent` that has done its work already.

    Args:
        chains: what it did, by the id of the task.
        store: the images.
    """

    name = "recorded"

    def __init__(self, chains: Mapping[str, Recorded], store: ImageStore) -> None:
        self._chains = chains
        self.store = store

    async def attempt(self, task: EditTask) -> Trajectory:
        """What is recorded of a task."""
        # A copy: the new score is written on it.
        return replace(self._chains[task.id].trajectory)

    async def close(self) -> None:
        """Nothing is held."""


def _completed(recording: Recording, settings: ReplaySettings, store: ImageStore) -> Recording:
    if settings.data is not None:
        from agentfly.datasets import load_tasks

        tasks = load_tasks(
            settings.data, split=settings.split, seed=settings.seed, root=settings.root, **settings.data_options
        )
        recording = recording.with_tasks(tasks, store)
    if not any(chain.task.images and chain.task.images[0] in store for chain in recording.chains):
        raise ConfigError(
            f"{str(recording.path)!r} names images that were not kept beside it: name their folder with --images, or "
            "the data set of the tasks with --data (and --re-execute, to make the results anew)"
        )
    return recording


async def _execute(
    chains: Sequence[Recorded], store: ImageStore, settings: ReplaySettings, out: Path
) -> Mapping[str, Any]:
    engines = make_engines(settings.engine)
    gate = asyncio.Semaphore(settings.concurrency)

    async def one(chain: Recorded) -> Reexecution:
        async with gate:
            return await reexecute(chain.id, chain.trajectory, store, engines, timeout=settings.timeout)

    found = await gather_or_cancel(one(chain) for chain in chains)
    counted = totals(found)
    names = (engines.detector.name, engines.inpainter.name, engines.editor.name)
    report = {
        "run": str(settings.run),
        "engines": list(dict.fromkeys(names)),
        "totals": counted,
        "chains": [one.to_dict() for one in found if one.differences or one.skipped],
    }
    write_text(out / "reexecution.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write_text(out / "reexecution.md", _page(report, found))
    return counted


async def _score(
    recording: Recording, store: ImageStore, settings: ReplaySettings, out: Path, on_record: OnRecord
) -> Mapping[str, Any]:
    specs = read_specs(settings.evaluator)
    identity = {"replay": str(recording.path.resolve()), "evaluator": specs}
    identity |= {name: getattr(settings, name) for name in ("data", "split", "seed", "re_execute", "engine")}
    refuse_keys(identity)
    scorer = Scorer(specs, settings.concurrency)
    folder = RunFolder(out, identity)
    try:
        agent = RecordedAgent({chain.id: chain for chain in recording.chains}, store)

        async def check() -> None:
            first = recording.chains[:FIRST_TASKS]
            try:
                await scorer.check_tasks(await asyncio.to_thread(list, _tasks(first, store)))
            except ConfigError as fault:
                raise ConfigError(f"{fault}{_missing_tasks(first, settings.data)}") from None
            await scorer.check_ready()

        tasks = _tasks(recording.chains, store)
        run = EvaluationRun(agent, tasks, scorer, folder, settings.concurrency, on_record=on_record, check=check)
        records = await run()
        about = {"agent": agent.name, "model": None, "data": str(settings.run), "split": None}
        return await asyncio.to_thread(write_pages, out, records, scorer.labels, folder.images, about, settings.gallery)
    finally:
        await scorer.close()
        folder.close()


def _missing_tasks(chains: Sequence[Recorded], data: str | None) -> str:
    """Say what to give, where the log does not know its tasks whole."""
    if all(chain.whole for chain in chains):
        return ""
    if data is None:
        return ". This log keeps no targets and no masks: name the data set that its tasks are from with --data"
    return f". --data {data} has no tasks with the ids of this log, such as {chains[0].task.id!r}"


def _tasks(chains: Iterable[Recorded], store: ImageStore) -> Iterator[EditTask]:
    """The tasks of chains, with the images that are there."""
    for chain in chains:
        task = chain.task
        images = tuple(store.get(handle) for handle in task.images if handle in store)
        target, mask = (store.get(h) if h is not None and h in store else None for h in (task.target, task.mask))
        yield EditTask(chain.id, task.instruction, images, target, mask, task.task_type, task.metadata)


def _page(report: Mapping[str, Any], found: Sequence[Reexecution]) -> str:
    rows = [_row(one.id, difference) for one in found for difference in one.differences]
    counted = "".join(f"- {name.replace('_', ' ')}: {value}\n" for name, value in report["totals"].items())
    head = ["chain", "turn", "call", "tool", "image", "what", "mean", "max", "pixels %"]
    parts = [f"# The tool calls of {report['run']}, carried out again\n", f"Engines: {', '.join(report['engines'])}.\n"]
    parts += [counted, table(head, rows[:_SHOWN]) if rows else "No image differs.\n"]
    if len(rows) > _SHOWN:
        parts.append(f"{len(rows) - _SHOWN} more are in reexecution.json.\n")
    skipped = [f"- {one.id}: {reason}\n" for one in found for reason in one.skipped]
    if skipped:
        parts += ["Not carried out:\n", "".join(skipped[:_SHOWN])]
    return "\n".join(parts)


def _row(chain: str, found: Difference) -> list[str]:
    measured = _figure(found.mean), _figure(found.max), _share(found.share)
    return [chain, str(found.turn), str(found.call), found.tool, found.image or "–", found.what, *measured]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"
