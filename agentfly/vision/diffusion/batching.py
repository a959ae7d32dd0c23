"""Run requests that arrive together as one batch, and stop batches that no caller waits for any more.

Threads and not tasks do the waiting, so that one engine serves one event loop after another.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from agentfly.vision.model_runtime import OutOfMemory

Request = TypeVar("Request")
Result = TypeVar("Result")
# Called between two denoising steps: True once no caller waits for the batch.
Abandoned = Callable[[], bool]
Run = Callable[[Sequence[Request], Abandoned], Sequence[Result]]


class Stopped(Exception):
    """A run ended early because no caller waited for it."""


class _Job(Generic[Request, Result]):
    def __init__(self, key: Hashable, request: Request) -> None:
        self.key = key
        self.request = request
        self.arrived = time.monotonic()
        self.future: Future[Result] = Future()
        self.abandoned = threading.Event()


class Batcher(Generic[Request, Result]):
    """Collects requests and runs those with equal keys together.

    The oldest request decides the key of the next batch. A free thread waits for others up to `window` after that
    request's arrival; requests that came while the threads were busy have waited long enough.

    Args:
        run: works on requests of one key, in a thread of the batcher; returns one result for each, in their order.
        max_batch: requests of a batch at most.
        window: seconds.
        threads: batches that run at once.
    """

    def __init__(self, run: Run[Request, Result], *, max_batch: int, window: float, threads: int = 1) -> None:
        self._run = run
        self._max_batch = max_batch
        self._window = window
        self._waiting: deque[_Job[Request, Result]] = deque()
        self._changed = threading.Condition()
        # Only one thread collects at a time: two would split a batch between them.
        self._collecting = threading.Lock()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="diffusion")

    async def submit(self, key: Hashable, request: Request) -> Result:
        """Return the result of one request. Cancelling the call withdraws the request, even while it runs.

        Args:
            key: requests with equal keys may share a batch.
            request: for `run`.
        """
        job: _Job[Request, Result] = _Job(key, request)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()
        self._threads.submit(self._run_next_batch)
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            job.abandoned.set()
            raise

    def close(self) -> None:
        """Drop the requests that wait; those that run stop at their next step."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._changed:
            while self._waiting:
                self._waiting.popleft().future.cancel()

    def _run_next_batch(self) -> None:
        with self._collecting, self._changed:
            while self._waiting and self._waiting[0].future.cancelled():
                self._waiting.popleft()
            if not self._waiting:
                return
            first = self._waiting[0]
            deadline = first.arrived + self._window
            while len(self._with_key_of(first)) < self._max_batch and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            batch = self._with_key_of(first)[: self._max_batch]
            for job in batch:
                self._waiting.remove(job)
        running = [job for job in batch if job.future.set_running_or_notify_cancel()]
        if running:
            self._run_jobs(running)

    def _with_key_of(self, first: _Job[Request, Result]) -> list[_Job[Request, Result]]:
        return [job for job in self._waiting if job.key == first.key and not job.future.cancelled()]

    def _run_jobs(self, jobs: list[_Job[Request, Result]]) -> None:
        try:
            results = self._run([job.request for job in jobs], lambda: all(job.abandoned.is_set() for job in jobs))
        except OutOfMemory as fault:
            if len(jobs) == 1:
                jobs[0].future.set_exception(fault)
                return
            # Requests that do not fit into memory together may fit one by one.
            for job in jobs:
                self._run_jobs([job])
        except BaseException as fault:
            for job in jobs:
                job.future.set_exception(fault)
        else:
            for job, result in zip(jobs, results, strict=True):
                job.future.set_result(result)
