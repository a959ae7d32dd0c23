"""Run an evaluation from its settings to its tables.

Tasks are taken from the data set one by one: memory is needed for the tasks in progress only. A finished task is on
disk at once (`agentfly.evaluation.run_folder`) and does not run again after a restart. A fault ends its task, not the
run.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from agentfly.agents.tasks import TaskFacts
from agentfly.agents.trajectory import StopReason, Trajectory
from agentfly.aio import CancelledItself, TimeLimitExceeded, gather_or_cancel, with_timeout
from agentfly.datasets.task import EditTask
from agentfly.errors import DISK_FULL, AgentFlyError, ConfigError, DatasetError, ImageError, is_disk_full, shortened
from agentfly.evaluation.report.pages import write_pages
from agentfly.evaluation.report.summary import About, Summary
from agentfly.evaluation.run_folder import RunFolder
from agentfly.evaluation.scoring import FIRST_TASKS, Scorer
from agentfly.evaluation.settings import EvaluationSettings, TaskSource
from agentfly.evaluation.task_agent import NamedTaskAgent, TaskAgent, make_task_agent
from agentfly.evaluation.task_record import TaskRecord
from agentfly.messages import text_message

logger = logging.getLogger(__name__)

OnRecord = Callable[[TaskRecord, bool], None]


@dataclass
class EvaluationRun:
    """A run over the tasks of a data set that are not finished yet.

    Attributes:
        agent: attempts the tasks.
        tasks: in order; taken lazily.
        scorer: scores the trajectories.
        folder: keeps the records.
        concurrency: tasks at the same time.
        timeout: seconds for one attempt.
        retry_failed: run again the tasks that ended with a fault.
        repeats: attempts at each task. The second one has the task's id with `#2`, and so on, from which agents of this
            package derive the seeds of its turns.
        seed: of the run, written to each attempt of several.
        on_record: called with every record, and True where an earlier start had finished it.
        check: awaited once, before the first task that no earlier start has finished.
    """

    agent: TaskAgent
    tasks: Iterable[EditTask]
    scorer: Scorer
    folder: RunFolder
    concurrency: int = 8
    timeout: float = 900.0
    retry_failed: bool = False
    repeats: int = 1
    seed: int = 0
    on_record: OnRecord = lambda record, resumed: None
    check: Callable[[], Awaitable[None]] | None = None
    _order: dict[str, None] = field(default_factory=dict, init=False)

    async def __call__(self) -> list[TaskRecord]:
        """Run the tasks and return the records of all, in the order of the data set.

        Raises:
            ConfigError: agent or evaluator is set up wrongly, or the folder has another task under an id.
            OSError: the disk is full.
            DatasetError: the data set has a row that cannot be read, or an id twice.
        """
        tasks, turn = self._attempts(), asyncio.Lock()
        await gather_or_cancel(self._work(tasks, turn) for _ in range(self.concurrency))
        return [self.folder.finished[task] for task in self._order]

    def _attempts(self) -> Iterator[tuple[EditTask, int]]:
        """Yield each task as often as it is to be attempted, with the number of the attempt."""
        for task in self.tasks:
            for repeat in range(1, self.repeats + 1):
                yield (task if repeat == 1 else replace(task, id=f"{task.id}#{repeat}")), repeat

    async def _work(self, tasks: Iterator[tuple[EditTask, int]], turn: asyncio.Lock) -> None:
        while True:
            async with turn:
                # Reading a row can mean decoding or a download.
                attempt = await asyncio.to_thread(next, tasks, None)
                if attempt is None:
                    return
                task, repeat = attempt
                if task.id in self._order:
                    raise DatasetError(f"two tasks have the id {shortened(task.id)!r}: ids are unique in a data set")
                self._order[task.id] = None
                done = self._finished(task)
            if done is not None and (fault := await asyncio.to_thread(self._lost_image, done)):
                logger.warning("task %s runs again: %s", task.id, fault)
                done = None
            if done is not None:
                self.on_record(done, True)
                continue
            if self.check is not None:
                async with turn:
                    if self.check is not None:
                        await self.check()
                        self.check = None
            record = await self._record(task, repeat)
            await self.folder.append(record)
            self.on_record(record, False)

    def _finished(self, task: EditTask) -> TaskRecord | None:
        done = self.folder.finished.get(task.id)
        if done is None or (self.retry_failed and done.failed):
            return None
        if done.task.instruction != task.instruction:
            raise ConfigError(
                f"{str(self.folder.folder)!r} has another task under the id {shortened(task.id)!r}: the data set "
                "has changed, use another --out"
            )
        return done

    def _lost_image(self, done: TaskRecord) -> ImageError | None:
        """Return the fault of an image of a finished task that its folder has lost; None where all are sound."""
        images, task, trajectory = self.folder.images, done.task, done.trajectory
        final = trajectory.final_image if trajectory.score is not None else None
        kept = {*task.images, task.target, task.mask, final, *task.references.values()}
        # An agent with a store of its own may name images that were never kept.
        wanted = kept | {handle for handle in trajectory.handles if handle in images}
        try:
            for handle in sorted(filter(None, wanted)):
                images.get(handle)
        except ImageError as fault:
            return fault
        return None

    async def _record(self, task: EditTask, repeat: int) -> TaskRecord:
        images = self.folder.images
        try:
            facts = await asyncio.to_thread(TaskFacts.keep, task, images)
        except ImageError as fault:
            trajectory = self._numbered(ended(task, StopReason.ERROR, str(fault)), repeat)
            return await self._scored(TaskFacts.without_images(task), trajectory)
        trajectory = self._numbered(await self._attempt(task), repeat)
        if (trajectory.error or "").startswith(DISK_FULL):
            # Every further task would fail too. This one is not recorded, so it runs again when there is space.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder.folder))
        # An agent may work in a store of its own.
        await asyncio.to_thread(images.copy_from, self.agent.store, trajectory.handles)
        return await self._scored(facts, trajectory)

    def _numbered(self, trajectory: Trajectory, repeat: int) -> Trajectory:
        """Write on a trajectory which of several attempts it is; a recorded one may have it already."""
        if self.repeats > 1:
            trajectory.repeat, trajectory.seed = repeat, self.seed
        return trajectory

    async def _scored(self, facts: TaskFacts, trajectory: Trajectory) -> TaskRecord:
        scores, judges = await self.scorer.score(facts, trajectory, self.folder.images)
        return TaskRecord(facts, trajectory, scores, judges)

    async def _attempt(self, task: EditTask) -> Trajectory:
        begun = time.monotonic()
        try:
            trajectory = await with_timeout(self.agent.attempt(task), self.timeout)
        except ConfigError:
            raise
        except TimeLimitExceeded:
            trajectory = ended(task, StopReason.WALL_CLOCK, f"no trajectory within {self.timeout:g} s")
        except CancelledItself:
            trajectory = ended(task, StopReason.ERROR, "the agent cancelled its own work")
        except Exception as fault:  # the boundary of a task: a bug in one must not end the run
            if is_disk_full(fault):
                raise
            logger.exception("task %s failed", task.id)
            words = str(fault) if isinstance(fault, AgentFlyError) else f"{type(fault).__name__}: {fault}"
            trajectory = ended(task, StopReason.ERROR, words)
        trajectory.seconds = trajectory.seconds or time.monotonic() - begun
        return trajectory


def ended(task: EditTask, reason: StopReason, error: str) -> Trajectory:
    """Return the trajectory of a task of which nothing but its end is known.

    Args:
        task: that was attempted.
        reason: of the end.
        error: message for people.
    """
    return Trajectory(task.id, task.id, [text_message("user", task.instruction)], stop_reason=reason, error=error)


async def run_evaluation(settings: EvaluationSettings, on_record: OnRecord = lambda record, resumed: None) -> Summary:
    """Run an evaluation, write its pages, and return the summary.

    Args:
        settings: agent, data set, evaluators and folder.
        on_record: called with every record, and True where an earlier start had finished it.

    Raises:
        ConfigError: a setting is wrong, the folder belongs to another run, or an evaluator could not score.
        DatasetError: the data set cannot be read.
    """
    source, choice = settings.source(), settings.protocol_choice
    protocol = None if choice is None else choice.bound()
    scorer = Scorer(settings.specs, settings.concurrency)
    folder = RunFolder(settings.out, settings.identity())
    try:
        agent = make_task_agent(settings, folder.images)
        if settings.repeats > 1 and not settings.temperature and isinstance(agent, NamedTaskAgent):
            logger.warning("at temperature 0 the attempts at a task hardly differ: give --temperature, such as 0.7")
        begun = time.monotonic()
        try:
            records = await _run_tasks(settings, source, agent, scorer, folder, on_record)
        finally:
            await agent.close()
            await scorer.close()
        if not records:
            where = f" in {settings.root}: check that folder, --split" if settings.root else ": check --split"
            raise DatasetError(f"{source.data!r} has no task{where} and --data-options")
        about: About = {
            "agent": agent.name,
            "model": settings.model,
            "data": source.data,
            "split": settings.split,
            "wall_clock_seconds": round(time.monotonic() - begun, 1),
        }
        more = (scorer.labels, folder.images, about, settings.gallery, protocol)
        return await asyncio.to_thread(write_pages, settings.out, records, *more)
    finally:
        folder.close()


async def _run_tasks(
    settings: EvaluationSettings,
    source: TaskSource,
    agent: TaskAgent,
    scorer: Scorer,
    folder: RunFolder,
    on_record: OnRecord,
) -> list[TaskRecord]:
    from agentfly.datasets import load_tasks

    load = partial(
        load_tasks, source.data, split=source.split, seed=settings.seed, root=settings.root, **source.options
    )

    async def check() -> None:
        first = load(limit=min(FIRST_TASKS, settings.limit or FIRST_TASKS))
        await scorer.check_tasks(await asyncio.to_thread(list, first))
        await scorer.check_ready()

    return await EvaluationRun(
        agent,
        load(limit=settings.limit),
        scorer,
        folder,
        settings.concurrency,
        settings.timeout,
        settings.retry_failed,
        settings.repeats,
        settings.seed,
        on_record,
        check,
    )()
