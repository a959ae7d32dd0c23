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

from agentfly.serving.image_server.errors import DeadlineExceeded, QueueFull, RequestRefused, ServerFault
from agentfly.serving.image_server.metrics import Counters
from agentfly.serving.image_server.settings import ServerSettings
from agentfly.serving.image_server.workers.jobs import Job, Worker
from agentfly.serving.image_server.workers.messages import (
    Assign,
    Cancel,
    Done,
    Fault,
    FromWorker,
    NotLoaded,
    Operation,
    Outcome,
    Ready,
    Work,
)
from agentfly.serving.image_server.workers.process import WorkerProcess

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
_BACKOFF = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# Requests lost to their deadlines in a row, in request timeouts, after which a worker counts as stuck.
_FRUITLESS = 1.5


class Dispatcher:
    """Takes work, gives it to workers, and keeps them alive. Belongs to one event loop."""

    def __init__(self, settings: ServerSettings, counters: Counters | None = None) -> None:
        self._settings = settings
        self.counters = counters or Counters()
        gpus: Sequence[int | None] = settings.gpu_ids or [None] * settings.workers
        self.workers = [Worker(index, gpu) for index, gpu in enumerate(gpus)]
        self._queue: deque[Job] = deque()
        self._ids = 0
        self._closing = False
        self._seconds = 0.0  # moving average of a job's time in a worker
        self.fatal = asyncio.Event()
        self.fatal_message = ""
        self.engine = ""
        self.operations: frozenset[Operation] = frozenset()

    @property
    def ready(self) -> bool:
        """Whether a worker can take work."""
        return not self._closing and any(worker.ready is not None for worker in self.workers)

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Jobs in workers."""
        return sum(len(worker.jobs) for worker in self.workers)

    def start(self) -> None:
        """Start the workers; returns before they are ready."""
        for worker in self.workers:
            self._launch(worker)

    async def stop(self) -> None:
        """End the workers. What still waits or runs is answered with a `ServerFault`."""
        self._closing = True
        running = [job for worker in self.workers for job in worker.jobs.values()]
        for job in [*self._queue, *running]:
            job.settle(ServerFault("the server is shutting down", status=503))
        self._queue.clear()
        grace = self._settings.cancel_grace
        await asyncio.gather(*(w.process.stop(grace) for w in self.workers if w.process is not None))

    def retry_after(self) -> int:
        """Seconds after which the queue should have room."""
        seconds = self._seconds * (self.waiting + 1) / max(1, self._settings.capacity)
        return max(1, min(60, round(seconds)))

    def check_room(self, count: int = 1) -> None:
        """Raise `QueueFull` unless `count` more jobs fit. What a free worker takes at once needs no room."""
        free = sum(self._settings.slots - len(worker.jobs) for worker in self.workers if worker.ready is not None)
        if self._closing:
            raise ServerFault("the server is shutting down", status=503)
        if self.waiting + count > self._settings.max_queue + max(0, free):
            raise QueueFull(self.retry_after())

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
            job = Job(self._ids, work, time.monotonic() + seconds, loop.create_future())
            job.timer = loop.call_later(seconds, self._expire, job)
            jobs.append(job)
        self._queue.extend(jobs)
        self._pump()
        return jobs

    def cancel(self, job: Job) -> None:
        """Forget a job that nobody waits for; one that is done stays done."""
        if not job.future.done():
            self.counters.cancelled += 1
            job.future.cancel()
            self._drop(job)
        elif not job.future.cancelled():
            # A second failure of one request is nobody's news.
            job.future.exception()

    def _expire(self, job: Job) -> None:
        if job.future.done():
            return
        self.counters.expired += 1
        where = "in the queue" if job in self._queue else "in a worker"
        job.settle(DeadlineExceeded(f"the deadline of this request passed {where}"))
        worker = self._drop(job)
        if worker is not None:
            worker.fruitless += time.monotonic() - job.started
            if worker.fruitless >= _FRUITLESS * self._settings.request_timeout:
                self._evict(worker, "it has finished nothing for long")

    def _drop(self, job: Job) -> Worker | None:
        """Take a job out of the queue, or tell its worker to stop it; the worker, if it has one."""
        if job.timer is not None:
            job.timer.cancel()
        if job in self._queue:
            self._queue.remove(job)
            return None
        worker = next((w for w in self.workers if w.jobs.get(job.id) is job), None)
        if worker is not None and worker.process is not None:
            worker.process.send(Cancel(job.id))
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.cancel_grace, self._reap, worker, worker.process, job)
        return worker

    def _reap(self, worker: Worker, process: WorkerProcess, job: Job) -> None:
        if worker.process is process and job.id in worker.jobs:
            self._evict(worker, f"it did not stop an abandoned request within {self._settings.cancel_grace:g} s")

    def _evict(self, worker: Worker, reason: str) -> None:
        if worker.process is not None and not worker.evicted:
            logger.warning("worker %d is restarted: %s", worker.index, reason)
            worker.evicted = True
            worker.process.kill()

    def _pump(self) -> None:
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
        worker.evicted, worker.fruitless, worker.ready = False, 0.0, None
        worker.process = WorkerProcess(
            self._settings.engine_options(),
            worker.gpu,
            lambda message: self._heard(worker, message),
            lambda code: self._ended(worker, code),
        )

    def _heard(self, worker: Worker, message: FromWorker) -> None:
        if isinstance(message, Ready):
            worker.ready, worker.faults, worker.memory = message, 0, message.memory
            self.engine, self.operations = message.engine, message.operations
            logger.info("worker %d is ready: %s", worker.index, message.engine)
        elif isinstance(message, NotLoaded):
            logger.error("worker %d cannot load its engine: %s", worker.index, message.message)
            if not self.engine:
                self.fatal_message = message.message
                self.fatal.set()
        else:
            self._finished(worker, message)
        self._pump()

    def _finished(self, worker: Worker, done: Done) -> None:
        job = worker.jobs.pop(done.job, None)
        worker.memory = done.memory
        if job is None:
            return
        if done.fault is not Fault.cancelled:
            worker.finished += 1
            worker.fruitless = 0.0
            self._seconds += 0.2 * (done.seconds - self._seconds) if self._seconds else done.seconds
            self.counters.engine_seconds.observe(job.work.operation, done.seconds)
        job.settle(_result(done))

    def _ended(self, worker: Worker, code: int) -> None:
        jobs, worker.jobs = list(worker.jobs.values()), {}
        evicted, worker.process, worker.ready = worker.evicted, None, None
        if self._closing:
            return
        if not evicted:
            logger.error("worker %d ended with exit code %d", worker.index, code)
        for job in reversed(jobs):
            self._again(worker, job, blamed=not evicted)
        delay = _BACKOFF[min(worker.faults, len(_BACKOFF) - 1)]
        worker.faults += 1
        worker.restarts += 1
        self.counters.restarts += 1
        asyncio.get_running_loop().call_later(delay, self._launch, worker)
        self._pump()

    def _again(self, worker: Worker, job: Job, *, blamed: bool) -> None:
        """Put the job of a dead worker at the head of the queue, unless it has had its chance."""
        if job.future.done():
            return
        if not blamed:
            job.attempts -= 1
        if job.attempts >= MAX_ATTEMPTS:
            job.settle(ServerFault("the worker process died twice while it did this request"))
            return
        self.counters.retries += 1
        job.avoid = worker.index
        self._queue.appendleft(job)


def _result(done: Done) -> Outcome | Exception:
    if done.outcome is not None:
        return done.outcome
    if done.fault in (Fault.refused, Fault.unavailable):
        code = "engine_unavailable" if done.fault is Fault.unavailable else "refused_by_engine"
        return RequestRefused(done.message, status=422, code=code)
    return ServerFault("the engine failed on this request; the server's log says why")
