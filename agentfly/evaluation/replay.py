"""Score finished trajectories with other evaluators, or run their tool calls again, without the agent.

Sources are the runs of `agentfly eval`, the log folders of `Agent.run(log_dir=…)`, the chains that training logs
(`trajectory_log`, the quickstart's `trajectories.jsonl`), and files with one trajectory per line. Only an evaluation
has its complete tasks. For the others, instruction and source image are taken from the first messages, and the rest of
the task from its data set, by the task's id.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from pydantic import Field

from agentfly.agents.factory import make_agent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.spec import AgentSpec, Named
from agentfly.agents.tasks import TaskFacts
from agentfly.agents.trajectory import StopReason, Trajectory
from agentfly.agents.trajectory_file import FILE_NAME, IMAGES, TrajectoryLine, image_folder, read_trajectories
from agentfly.agents.user_tools import OWN
from agentfly.aio import gather_or_cancel
from agentfly.datasets.task import EditTask
from agentfly.errors import ConfigError, ImageError
from agentfly.evaluation.reexecution import Reexecution, Totals, reexecute, totals
from agentfly.evaluation.report.markdown import plain, table
from agentfly.evaluation.report.pages import write_pages
from agentfly.evaluation.report.summary import About, Summary
from agentfly.evaluation.run import EvaluationRun, OnRecord
from agentfly.evaluation.run_folder import RunFolder
from agentfly.evaluation.scoring import FIRST_TASKS, Scorer
from agentfly.evaluation.settings import ScoringSettings, refuse_keys
from agentfly.files import write_text
from agentfly.images import ImageStore
from agentfly.redaction import public_settings
from agentfly.settings import OutputPath
from agentfly.tools.groups import GROUPS
from agentfly.vision import make_engines

logger = logging.getLogger(__name__)

_SHOWN = 100


@dataclass(frozen=True)
class Recorded:
    """One recorded chain.

    Attributes:
        id: unique in its recording: the task's id, with `#2`, `#3`, ... for further chains of the task.
        task: what is known of the task.
        trajectory: what was done.
        whole: whether the task is known whole, not only from the messages.
        images_kept: False where a training left out the images of the chain, within its limit for them.
    """

    id: str
    task: TaskFacts
    trajectory: Trajectory
    whole: bool
    images_kept: bool = True


@dataclass(frozen=True)
class Recording:
    """A file of trajectories and where its images are.

    Attributes:
        path: the file.
        chains: in the order of the file; of a chain that was written twice, the last.
        images: folder of the images, None where none were kept.
    """

    path: Path
    chains: tuple[Recorded, ...]
    images: Path | None

    def store(self) -> ImageStore:
        """The images; a store without any where none were kept."""
        return ImageStore(self.images)

    def with_images(self) -> Recording:
        """The recording without the chains whose images were left out; as it is where all of them were."""
        chains = tuple(chain for chain in self.chains if chain.images_kept)
        if not chains or len(chains) == len(self.chains):
            return self
        logger.warning(
            "%d of %d chains are left out: their images were not kept (agentfly.images.max_gb of the training)",
            len(self.chains) - len(chains),
            len(self.chains),
        )
        return replace(self, chains=chains)

    def with_tasks(self, tasks: Iterable[EditTask], store: ImageStore) -> Recording:
        """The recording with tasks of its data set where it does not know them whole; their images go to `store`.

        Raises:
            ImageError: an image of a task cannot be loaded.
        """
        wanted = {chain.task.id for chain in self.chains if not chain.whole}
        found: dict[str, TaskFacts] = {}
        for task in tasks if wanted else ():
            if task.id in wanted and task.id not in found:
                found[task.id] = TaskFacts.keep(task, store)
            if len(found) == len(wanted):
                break
        chains = (
            replace(c, task=found[c.task.id], whole=True) if not c.whole and c.task.id in found else c
            for c in self.chains
        )
        return replace(self, chains=tuple(chains))


def read_recording(run: Path, images: Path | None = None, limit: int | None = None) -> Recording:
    """Read a recording.

    Args:
        run: a folder with `trajectories.jsonl`, or a file.
        images: folder of the images; without it, the one beside the file.
        limit: chains at most.

    Raises:
        ConfigError: there is none, or a line cannot be read.
    """
    path = run / FILE_NAME if run.is_dir() else run
    if not path.is_file():
        others = sorted(str(file.relative_to(run)) for file in run.rglob("*.jsonl"))[:5] if run.is_dir() else []
        hint = f"; there is {', '.join(others)}: name one of them" if others else ""
        raise ConfigError(f"there are no trajectories at {str(path)!r}{hint}")
    if images is not None and not images.is_dir():
        raise ConfigError(f"there is no folder {str(images)!r}: --images names the folder of the images")
    last: dict[str, tuple[TaskFacts, TrajectoryLine]] = {}
    for _, line in read_trajectories(path):
        task = line.described_task()
        last[task.id if line.whole_task else line.trajectory.id] = (task, line)
    if not last:
        raise ConfigError(f"{str(path)!r} has no finished trajectory")
    chains, seen = [], Counter[str]()
    for task, line in list(last.values())[:limit]:
        seen[task.id] += 1
        name = task.id if seen[task.id] == 1 else f"{task.id}#{seen[task.id]}"
        chains.append(Recorded(name, task, line.trajectory, line.whole_task, line.images_kept))
    return Recording(path, tuple(chains), images or image_folder(path))


class ReplaySettings(ScoringSettings):
    """The settings of `agentfly replay`; no evaluator means no scoring.

    Attributes:
        run: folder or file of the trajectories.
        re_execute: run the recorded tool calls again.
        agent, tools: have the tools that are run again, see `agentfly.agents.spec`; without them, all tools of this
            package.
        images: folder of the images; by default the one beside the trajectories.
        data: data set of the tasks, for trajectories that lack them.
        out: folder of the results; by default `replay/` beside the trajectories.
        timeout: seconds for one tool call.
    """

    run: Path
    re_execute: bool = False
    agent: Named | None = None
    tools: tuple[Named, ...] | None = None
    images: Path | None = None
    data: str | None = None
    out: OutputPath | None = None
    timeout: float = Field(600.0, gt=0)


@dataclass(frozen=True)
class ReplayResult:
    """The summary of the new scores, the totals of the re-execution, and the folder of both."""

    out: Path
    summary: Summary | None = None
    reexecution: Totals | None = None

    @property
    def differs(self) -> bool:
        """True if running the calls again gave other results than the recorded ones."""
        return self.reexecution is not None and self.reexecution["differences"] > 0


async def replay(settings: ReplaySettings, on_record: OnRecord = lambda record, resumed: None) -> ReplayResult:
    """Replay a recording. Scoring resumes where an earlier start with the same evaluators ended.

    Args:
        settings: the recording, and the work to do on it.
        on_record: called with every scored record, and True where an earlier start had scored it.

    Raises:
        ConfigError: there is nothing to do, or there are no trajectories or no images.
    """
    scores = bool(settings.evaluator) or settings.protocol is not None
    if not scores and not settings.re_execute:
        raise ConfigError("nothing to do: give --evaluator to score again, --re-execute to run the tool calls again")
    recording = await asyncio.to_thread(read_recording, settings.run, settings.images, settings.limit)
    if not settings.re_execute:
        recording = recording.with_images()
    out = settings.out or recording.path.parent / "replay"
    store = ImageStore(out / IMAGES)
    store.look_in(recording.store())
    recording = await asyncio.to_thread(_complete_tasks, recording, settings, store)
    executed = await _execute(recording.chains, store, settings, out) if settings.re_execute else None
    scored = await _score(recording, store, settings, out, on_record) if scores else None
    return ReplayResult(out, scored, executed)


class RecordedAgent:
    """A `TaskAgent` that returns recorded trajectories.

    Args:
        chains: by the id of the task.
        store: the images that they name.
    """

    name = "recorded"

    def __init__(self, chains: Mapping[str, Recorded], store: ImageStore) -> None:
        self._chains = chains
        self.store = store

    async def attempt(self, task: EditTask) -> Trajectory:
        """Return a copy of the recorded trajectory, which takes the new score; a failed one if it has lost an image."""
        chain = self._chains[task.id]
        needed = (*chain.task.images, chain.task.target, chain.task.mask, chain.trajectory.final_image)
        try:
            await asyncio.to_thread(lambda: [self.store.get(handle) for handle in needed if handle is not None])
        except ImageError as fault:
            return replace(chain.trajectory, stop_reason=StopReason.ERROR, error=str(fault))
        return replace(chain.trajectory)

    async def close(self) -> None:
        """Do nothing: nothing is held."""


def _complete_tasks(recording: Recording, settings: ReplaySettings, store: ImageStore) -> Recording:
    if settings.data is not None:
        from agentfly.datasets import load_tasks

        tasks = load_tasks(
            settings.data, split=settings.split, seed=settings.seed, root=settings.root, **settings.data_options
        )
        recording = recording.with_tasks(tasks, store)
    with_images = [chain for chain in recording.chains if chain.task.images]
    if with_images and not any(chain.task.images[0] in store for chain in with_images):
        raise ConfigError(
            f"{str(recording.path)!r} names images that were not kept beside it: name their folder with --images, or "
            "the data set of the tasks with --data (and --re-execute, to make the results anew)"
        )
    return recording


async def _execute(chains: Sequence[Recorded], store: ImageStore, settings: ReplaySettings, out: Path) -> Totals:
    engines = make_engines(settings.engine)
    tools = settings.tools if settings.tools is not None or settings.agent is not None else (OWN, *GROUPS)
    spec = AgentSpec(agent=settings.agent, tools=tools)
    agent = make_agent(spec, "replay", engines=engines, backend=ScriptedBackend([]))
    gate = asyncio.Semaphore(settings.concurrency)

    async def one(chain: Recorded) -> Reexecution:
        async with gate:
            return await reexecute(chain.id, chain.trajectory, store, agent, timeout=settings.timeout)

    try:
        found = await gather_or_cancel(one(chain) for chain in chains)
    finally:
        await agent.close()
    counted = totals(found)
    names = list(dict.fromkeys((engines.detector.name, engines.inpainter.name, engines.editor.name)))
    report = {
        "run": str(settings.run),
        "engines": names,
        "totals": counted,
        "chains": [one.to_dict() for one in found if one.differences or one.skipped],
    }
    write_text(out / "reexecution.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    write_text(out / "reexecution.md", _page(settings.run, names, found))
    return counted


async def _score(
    recording: Recording, store: ImageStore, settings: ReplaySettings, out: Path, on_record: OnRecord
) -> Summary:
    specs, choice = settings.specs, settings.protocol_choice
    protocol = None if choice is None else choice.bound()
    bound = {} if protocol is None else {protocol.protocol.name: dict(protocol.identity)}
    identity: dict[str, object] = {"replay": str(recording.path.resolve()), "evaluator": {**specs, **bound}}
    identity |= {name: getattr(settings, name) for name in ("data", "split", "seed", "re_execute", "engine")}
    refuse_keys(identity)
    scorer = Scorer(specs, settings.concurrency)
    folder = RunFolder(out, public_settings(identity))
    # What an image was missing for is tried again: somebody may have put it back.
    for chain in recording.chains:
        done = folder.finished.get(chain.id)
        if done is not None and done.failed and not chain.trajectory.failed:
            del folder.finished[chain.id]
    try:
        agent = RecordedAgent({chain.id: chain for chain in recording.chains}, store)

        async def check() -> None:
            first = recording.chains[:FIRST_TASKS]
            try:
                await scorer.check_tasks(await asyncio.to_thread(list, _tasks(first, store)))
            except ConfigError as fault:
                hint = ""
                if not all(chain.whole for chain in first):
                    hint = ". This log keeps no targets and no masks: name the data set that its tasks are from with "
                    hint += "--data"
                    if settings.data is not None:
                        example = first[0].task.id
                        hint = f". --data {settings.data} has no tasks with the ids of this log, such as {example!r}"
                raise ConfigError(f"{fault}{hint}") from None
            await scorer.check_ready()

        tasks = _tasks(recording.chains, store)
        run = EvaluationRun(agent, tasks, scorer, folder, settings.concurrency, on_record=on_record, check=check)
        records = await run()
        about: About = {"agent": agent.name, "model": None, "data": str(settings.run), "split": None}
        more = (scorer.labels, folder.images, about, settings.gallery, protocol)
        return await asyncio.to_thread(write_pages, out, records, *more)
    finally:
        await scorer.close()
        folder.close()


def _tasks(chains: Iterable[Recorded], store: ImageStore) -> Iterator[EditTask]:
    """Yield the tasks of chains, with the images that were kept."""
    for chain in chains:
        task = chain.task
        images = tuple(image for image in (_kept(handle, store) for handle in task.images) if image is not None)
        target, mask = _kept(task.target, store), _kept(task.mask, store)
        kept = {name: _kept(handle, store) for name, handle in task.references.items()}
        references = {name: image for name, image in kept.items() if image is not None}
        yield EditTask(chain.id, task.instruction, images, target, mask, task.task_type, task.metadata, references)


def _kept(handle: str | None, store: ImageStore) -> Image.Image | None:
    """Return an image that was kept; None where it is missing or damaged, which `RecordedAgent` reports."""
    try:
        return None if handle is None else store.get(handle)
    except ImageError:
        return None


def _page(run: Path, engines: Sequence[str], found: Sequence[Reexecution]) -> str:
    rows = []
    for chain in found:
        for one in chain.differences:
            share = "–" if one.share is None else f"{100 * one.share:.2f}"
            figures = (*("–" if value is None else f"{value:g}" for value in (one.mean, one.max)), share)
            rows.append([chain.id, str(one.turn), str(one.call), one.tool, one.image or "–", one.what, *figures])
    counted = "".join(f"- {name.replace('_', ' ')}: {value}\n" for name, value in totals(found).items())
    head = ["chain", "turn", "call", "tool", "image", "what", "mean", "max", "pixels %"]
    parts = [f"# The tool calls of {plain(str(run))}, carried out again\n", f"Engines: {plain(', '.join(engines))}.\n"]
    parts += [counted, table(head, rows[:_SHOWN]) if rows else "No image differs.\n"]
    if len(rows) > _SHOWN:
        parts.append(f"{len(rows) - _SHOWN} more are in reexecution.json.\n")
    skipped = [f"- {plain(one.id)}: {plain(reason)}\n" for one in found for reason in one.skipped]
    if skipped:
        parts += ["Not carried out:\n", "".join(skipped[:_SHOWN])]
    return "\n".join(parts)
