"""The jobs and worker slots that the dispatcher keeps track of."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from agentfly.serving.image_server.workers.messages import Memory, Outcome, Ready, Work
from agentfly.serving.image_server.workers.process import WorkerProcess


@dataclass(eq=False)
class Job:
    """A piece of work on its way through the server."""

    id: int
    work: Work
    deadline: float
    future: asyncio.Future[Outcome]
    attempts: int = 0
    started: float = 0.0
    avoid: int | None = None
    timer: asyncio.TimerHandle | None = None

    def settle(self, result: Outcome | Exception) -> None:
        """Answer whoever waits, if somebody does."""
        if self.timer is not None:
            self.timer.cancel()
        if self.future.done():
            return
        if isinstance(result, Exception):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


@dataclass(eq=False)
class Worker:
    """A place for a worker process, which outlives the processes that fill it."""

    index: int
    gpu: int | None
    process: WorkerProcess | None = None
    ready: Ready | None = None
    jobs: dict[int, Job] = field(default_factory=dict)
    memory: Memory | None = None
    restarts: int = 0
    faults: int = 0  # exits since the engine was last loaded
    finished: int = 0
    fruitless: float = 0.0
    evicted: bool = False  # killed by the dispatcher, so that its jobs are not to blame

    @property
    def state(self) -> str:
        """For `/gpu/status`: starting, ready, busy or down."""
        if self.process is None:
            return "down"
        if self.ready is None:
            return "starting"
        return "busy" if self.jobs else "ready"
