"""The queue in front of the workers, which also keeps them alive.

A request waits in a bounded queue, first come first served. It ends at its deadline, waiting or running. If its worker
dies it runs once more, on another worker if there is one. It stops when its client hangs up. A worker that dies is
started again. A worker that does not stop an abandoned request is killed, and its other requests start over; that does
not count as their failure.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

from agentfly.serving.errors import DeadlineExceeded, QueueFull, RequestRefused, ServerFault
from agentfly.serving.image_server.metrics import Metrics
from agentfly.serving.image_server.settings import ServerSettings
from agentfly.serving.image_server.workers.messages import (
    Assign,
    Cancel,
    Done,
    Fault,
    FromWorker,
    Memory,
    NotLoaded,
    Operation,
    Outcome,
    Ready,
    Work,
)
from agentfly.serving.image_server.workers.process import WorkerProcess

logger = logging.getLogger(__name__)

State = Literal["starting", "ready", "busy", "down"]
MAX_ATTEMPTS = 2
# Seconds before a worker is started again, by how often it has ended since its engine was last loaded.
_BACKOFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# Time lost to deadlines in a row, in request timeouts, after which a worker counts as stuck.
_STUCK_TIMEOUTS = 1.5


@dataclass(eq=False)
class Job:
    """A piece of work on its way through the server.

    Attributes:
        future: the outcome, for the endpoint that waits.
        attempts: workers that it was given to; those that the dispatcher killed are not counted.
        started: monotonic time of the last attempt.
        avoid: index of the worker that died with it.
        timer: ends it at its deadline.
    """

    id: int
    work: Work
    future: asyncio.Future[Outcome]
    attempts: int = 0
    started: float = 0.0
    avoid: int | None = None
    timer: asyncio.TimerHandle | None = None

    def settle(self, result: Outcome | Exception) -> None:
        """Answer the endpoint, if it still waits."""
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
    """A place for a worker process, which outlives the processes that fill it.

    Attributes:
        gpu: the GPU of its processes; None leaves the choice to the device.
        faults: exits since the engine was last loaded.
        finished: jobs that it has answered.
        lost_seconds: time that its jobs took which met their deadline, since it last finished one.
        evicted: killed by the dispatcher, so that its jobs are not to blame.
    """

    index: int
    gpu: int | None
    process: WorkerProcess | None = None
    ready: Ready | None = None
    jobs: dict[int, Job] = field(default_factory=dict)
    memory: Memory | None = None
    restarts: int = 0
    faults: int = 0
    finished: int = 0
    lost_seconds: float = 0.0
    evicted: bool = False

    @property
    def state(self) -> State:
        """State for `/gpu/status` and the metrics."""
        if self.process is None:
            return "down"
        if self.ready is None:
            return "starting"
        return "busy" if self.jobs else "ready"


class Dispatcher:
    """The queue and the workers of one event loop.

    Attributes:
        fatal: set when the first engine cannot be loaded; `fatal_message` has the reason.
        known: set when the first engine is loaded or cannot be.
        engine: name of the engine; empty until a worker is ready.
        operations: of that engine.
        max_images: images that it edits in one call.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        gpus: Sequence[int | None] = settings.gpu_ids or [None] * settings.workers
        self.workers = [Worker(index, gpu) for index, gpu in enumerate(gpus)]
        self._queue: deque[Job] = deque()
        self._ids = 0
        self._closing = False
        self._job_seconds = 0.0  # moving average of a job's time in a worker
        self.fatal, self.known = asyncio.Event(), asyncio.Event()
        self.fatal_message = ""
        self.engine = ""
        self.operations: frozenset[Operation] = frozenset()
        self.max_images = 1
        self.metrics = Metrics()
        self.metrics.queue.set_function(lambda: self.waiting)
        self.metrics.running.set_function(lambda: self.running)
        for state in get_args(State):
            self.metrics.workers.labels(state).set_function(partial(self._count_workers, state))

    def _count_workers(self, state: State) -> int:
        return sum(worker.state == state for worker in self.workers)

    @property
    def ready(self) -> bool:
        """True when a worker can take work."""
        return not self._closing and any(worker.ready is not None for worker in self.workers)

    @property
    def waiting(self) -> int:
        """Number of jobs in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Number of jobs in workers."""
        return sum(len(worker.jobs) for worker in self.workers)

    def start(self) -> None:
        """Start the workers, without waiting until they are ready."""
        for worker in self.workers:
            self._launch(worker)

    async def stop(self) -> None:
        """End the workers. Jobs that still wait or run are answered with a `ServerFault`."""
        self._closing = True
        running = [job for worker in self.workers for job in worker.jobs.values()]
        for job in [*self._queue, *running]:
            job.settle(ServerFault("the server is shutting down", status=503))
        self._queue.clear()
        grace = self._settings.cancel_grace
        await asyncio.gather(*(w.process.stop(grace) for w in self.workers if w.process is not None))

    def check_room(self, count: int = 1) -> None:
        """Check that `count` more jobs fit. What a free worker takes at once needs no room in the queue.

        Raises:
            QueueFull: they do not fit.
            ServerFault: the server is shutting down.
        """
        free = sum(self._settings.slots - len(worker.jobs) for worker in self.workers if worker.ready is not None)
        if self._closing:
            raise ServerFault("the server is shutting down", status=503)
        if self.waiting + count > self._settings.max_queue + max(0, free):
            seconds = self._job_seconds * (self.waiting + 1) / max(1, self._settings.capacity)
            raise QueueFull(max(1, min(60, round(seconds))))

    def submit(self, works: Sequence[Work], seconds: float) -> list[Job]:
        """Queue all of `works`, or none.

        Args:
            works: what to do.
            seconds: from now until their deadline.

        Raises:
            QueueFull: the queue has no room for all of them.
        """
        self.check_room(len(works))
        loop = asyncio.get_running_loop()
        jobs = []
        for work in works:
            self._ids += 1
            job = Job(self._ids, work, loop.create_future())
            job.timer = loop.call_later(seconds, self._expire, job)
            jobs.append(job)
        self._queue.extend(jobs)
        self._assign_waiting()
        return jobs

    def cancel(self, job: Job) -> None:
        """Withdraw a job that nobody waits for; one that is done stays done."""
        if not job.future.done():
            self.metrics.cancelled.inc()
            job.future.cancel()
            self._withdraw(job)
        elif not job.future.cancelled():
            # Mark the exception as retrieved: a second failure of one request is not worth a log line.
            job.future.exception()

    def _expire(self, job: Job) -> None:
        if job.future.done():
            return
        self.metrics.expired.inc()
        where = "in the queue" if job in self._queue else "in a worker"
        job.settle(DeadlineExceeded(f"the deadline of this request passed {where}"))
        worker = self._withdraw(job)
        if worker is not None:
            worker.lost_seconds += time.monotonic() - job.started
            if worker.lost_seconds >= _STUCK_TIMEOUTS * self._settings.request_timeout:
                self._evict(worker, "it has finished nothing for long")

    def _withdraw(self, job: Job) -> Worker | None:
        """Take a job out of the queue, or have its worker stop it. Return the worker, if it has one."""
        if job.timer is not None:
            job.timer.cancel()
        if job in self._queue:
            self._queue.remove(job)
            return None
        worker = next((w for w in self.workers if w.jobs.get(job.id) is job), None)
        if worker is None or worker.process is None:
            return worker
        process, grace = worker.process, self._settings.cancel_grace
        process.send(Cancel(job.id))

        def evict_unless_stopped() -> None:
            if worker.process is process and job.id in worker.jobs:
                self._evict(worker, f"it did not stop an abandoned request within {grace:g} s")

        asyncio.get_running_loop().call_later(grace, evict_unless_stopped)
        return worker

    def _evict(self, worker: Worker, reason: str) -> None:
        """Kill a worker's process; `_on_exit` starts another."""
        if worker.process is not None and not worker.evicted:
            logger.warning("worker %d is restarted: %s", worker.index, reason)
            worker.evicted = True
            worker.process.kill()

    def _assign_waiting(self) -> None:
        """Give waiting jobs to workers with a free slot, the least loaded first."""
        slots = self._settings.slots
        while self._queue:
            free = [w for w in self.workers if w.ready is not None and not w.evicted and len(w.jobs) < slots]
            if not free:
                return
            job = self._queue.popleft()
            if job.future.done():
                continue
            worker = min(free, key=lambda w: (w.index == job.avoid, len(w.jobs), w.finished))
            if worker.process is None:
                return
            job.attempts += 1
            job.started = time.monotonic()
            worker.jobs[job.id] = job
            worker.process.send(Assign(job.id, job.work))

    def _launch(self, worker: Worker) -> None:
        if self._closing:
            return
        worker.evicted, worker.lost_seconds, worker.ready = False, 0.0, None
        worker.process = WorkerProcess(
            self._settings.engine_options(),
            worker.gpu,
            lambda message: self._on_message(worker, message),
            lambda code: self._on_exit(worker, code),
        )

    def _on_message(self, worker: Worker, message: FromWorker) -> None:
        if isinstance(message, Ready):
            worker.ready, worker.faults = message, 0
            self._set_memory(worker, message.memory)
            self.engine, self.operations, self.max_images = message.engine, message.operations, message.max_images
            self.known.set()
            logger.info("worker %d is ready: %s", worker.index, message.engine)
        elif isinstance(message, NotLoaded):
            logger.error("worker %d cannot load its engine: %s", worker.index, message.message)
            if not self.engine:
                self.fatal_message = message.message
                self.fatal.set()
                self.known.set()
        else:
            self._set_memory(worker, message.memory)
            job = worker.jobs.pop(message.job, None)
            if job is not None:
                self._finish(worker, job, message)
        self._assign_waiting()

    def _set_memory(self, worker: Worker, memory: Memory | None) -> None:
        worker.memory = memory
        if memory is not None:
            for kind, size in vars(memory).items():
                self.metrics.gpu_memory.labels(worker.index, kind).set(size)

    def _finish(self, worker: Worker, job: Job, done: Done) -> None:
        """Record the end of a job and answer it."""
        if done.fault is not Fault.cancelled:
            worker.finished += 1
            worker.lost_seconds = 0.0
            mean = self._job_seconds
            self._job_seconds = mean + 0.2 * (done.seconds - mean) if mean else done.seconds
            self.metrics.engine_seconds.labels(job.work.operation.value).observe(done.seconds)
        if done.outcome is not None:
            job.settle(done.outcome)
        elif done.fault in (Fault.refused, Fault.unavailable):
            code = "engine_unavailable" if done.fault is Fault.unavailable else "refused_by_engine"
            job.settle(RequestRefused(done.message, status=422, code=code))
        else:
            job.settle(ServerFault("the engine failed on this request; the server's log says why"))

    def _on_exit(self, worker: Worker, code: int) -> None:
        """Put the jobs of a worker at the head of the queue, unless they had all their attempts, and start it again."""
        jobs, worker.jobs = list(worker.jobs.values()), {}
        worker.process, worker.ready = None, None
        if self._closing:
            return
        if not worker.evicted:
            logger.error("worker %d ended with exit code %d", worker.index, code)
        for job in reversed(jobs):
            if job.future.done():
                continue
            if worker.evicted:
                job.attempts -= 1
            if job.attempts >= MAX_ATTEMPTS:
                job.settle(ServerFault("the worker process died twice while it did this request"))
                continue
            self.metrics.retries.inc()
            job.avoid = worker.index
            self._queue.appendleft(job)
        delay = _BACKOFF[min(worker.faults, len(_BACKOFF) - 1)]
        worker.faults += 1
        worker.restarts += 1
        self.metrics.worker_restarts.inc()
        asyncio.get_running_loop().call_later(delay, self._launch, worker)
        self._assign_waiting()
