"""Waiting on an event loop: with a time limit, for tasks that stop together, between attempts, at a limited rate.

`RateLimiter` spaces admissions by 60 / N seconds. A bucket that holds N tokens, as `aiolimiter.AsyncLimiter(N, 60)`
does, admits N at once and refills while they run, so its first minute sees almost 2 N, and a server that counts answers
429. Here the bucket holds one token: every window of 60 seconds sees N admissions at most, and 60 requests at 6 a
minute take 59 intervals of 10 seconds. The clock is an argument, which aiolimiter, bound to its event loop's, does not
offer.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

logger = logging.getLogger(__name__)

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[object]]

_SLICES = 100  # of a limit on waiting


class TimeLimitExceeded(Exception):
    """The work took longer than its time limit."""


class CancelledItself(Exception):
    """The work was cancelled, but not by its caller."""


class Stepped(Generic[T]):
    """A coroutine whose steps are timed: between two awaits that give way, nothing else runs on the event loop.

    Args:
        work: the coroutine; awaiting this object awaits it.

    Attributes:
        longest: seconds of the longest step so far.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self.longest = 0.0

    def __await__(self) -> Generator[Any, Any, T]:
        """Drive the coroutine, and pass on what it waits for and what is thrown into it."""
        answer: Any = None
        fault: BaseException | None = None
        while True:
            began = time.perf_counter()
            try:
                waits_for = self._work.send(answer) if fault is None else self._work.throw(fault)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                self.longest = max(self.longest, time.perf_counter() - began)
            try:
                answer, fault = (yield waits_for), None
            except BaseException as thrown:
                answer, fault = None, thrown


async def awaited(waited: Awaitable[T]) -> T:
    """Await what is awaitable and no coroutine, such as a reference of Ray's."""
    return await waited


async def call_in_thread(function: Callable[..., T], /, *args: object, **kwargs: object) -> T:
    """Call a function of a person's own in a thread, and return its value.

    Unlike the threads of `asyncio.to_thread`, this one is waited for by nobody once its caller has given up: a function
    that never returns keeps no event loop from closing, no process from ending, and no other function from starting.

    Args:
        function: sees the context variables of the caller.
        args, kwargs: its arguments.

    Raises:
        Exception: what the function raises.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: T | None, fault: BaseException | None) -> None:
        if answer.done():
            return  # the caller has given up
        if fault is None:
            answer.set_result(value)  # type: ignore[arg-type]
        else:
            answer.set_exception(fault)

    def work() -> None:
        value: T | None = None
        fault: BaseException | None = None
        try:
            value = context.run(function, *args, **kwargs)
        except BaseException as raised:
            fault = _for_future(raised)
        with suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(settle, value, fault)

    async with _THREADS.get():
        name = getattr(function, "__name__", type(function).__name__)
        threading.Thread(target=work, name=f"agentfly-{name}", daemon=True).start()
        return await answer


def _for_future(fault: BaseException) -> Exception:
    """Return an error that a future can hold, unlike StopIteration, and that ends no process, unlike SystemExit."""
    if isinstance(fault, Exception) and not isinstance(fault, StopIteration):
        return fault
    return RuntimeError(f"{type(fault).__name__}: {fault}").with_traceback(fault.__traceback__)


async def with_timeout(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Return the result of `work`, or raise after `seconds`.

    `asyncio.wait_for` waits for work that does not react to its cancellation. This does not: what hangs must not hang
    its caller.

    Args:
        work: a coroutine; it runs as a task of its own.
        seconds: time limit; infinity for none.

    Raises:
        TimeLimitExceeded: the work takes longer. It is cancelled, and not waited for.
        CancelledItself: the work cancelled itself, which must not look as if the caller were cancelled.
    """

    async def wait(task: asyncio.Future[T]) -> None:
        await asyncio.wait({task}, timeout=None if math.isinf(seconds) else max(0.0, seconds))

    return await _limited(work, wait)


async def with_waiting_limit(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Return the result of `work`, or raise once it has been waited for `seconds`: it hangs, and is not just slow.

    `with_timeout` also counts the time in which nothing could be waited for: an import on the event loop, or a machine
    that is busy with other programs. Here the time is counted in slices, and a slice that lasts longer than it should
    counts as no more. So work that hangs is found in about `seconds`, on a slow machine later, and always in the end.

    Args:
        work: a coroutine; it runs as a task of its own.
        seconds: limit of the waiting, not infinite.

    Raises:
        TimeLimitExceeded: the limit is reached. The work is cancelled, and not waited for.
        CancelledItself: see `with_timeout`.
    """

    async def wait(task: asyncio.Future[T]) -> None:
        for _ in range(_SLICES):
            await asyncio.wait({task}, timeout=seconds / _SLICES)
            if task.done():
                return

    return await _limited(work, wait)


async def _limited(work: Coroutine[Any, Any, T], wait: Callable[[asyncio.Future[T]], Awaitable[None]]) -> T:
    """Return the result of `work` if it is done after a wait; see `with_timeout`."""
    task = asyncio.ensure_future(work)
    try:
        await wait(task)
        if task.cancelled():
            raise CancelledItself
        if task.done():
            return task.result()
    finally:
        if task.done():
            _discard_outcome(task)
        else:
            task.add_done_callback(_discard_outcome)
            task.cancel()
    raise TimeLimitExceeded


async def gather_or_cancel(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return results in order. When one coroutine fails, or the caller is cancelled, the others are cancelled first."""
    tasks = [asyncio.ensure_future(piece) for piece in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        left = [task for task in tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


def _discard_outcome(task: asyncio.Future[Any]) -> None:
    # The result comes too late. Retrieving the exception keeps asyncio from logging it as never retrieved.
    if not task.cancelled():
        task.exception()


def retrying(
    attempts: int,
    retry_on: type[E],
    wait: Callable[[int, E], float],
    *,
    sleep: Sleep = asyncio.sleep,
    log_level: int = logging.DEBUG,
) -> AsyncRetrying:
    """Return a caller, `await caller(function, *arguments)`, that tries again after faults that may pass.

    Any other exception, and the fault of the last attempt, is raised as it is.

    Args:
        attempts: calls at most, the first included.
        retry_on: kind of exception that is worth another attempt.
        wait: seconds to wait after an attempt, from its number (counted from 0) and its fault.
        sleep: waits for some seconds.
        log_level: of the line that each failed attempt leaves in the log.
    """
    from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

    def seconds(state: RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome else None
        assert isinstance(fault, retry_on)
        logger.log(log_level, "attempt %d failed: %s; trying again", state.attempt_number, fault)
        return wait(state.attempt_number - 1, fault)

    return AsyncRetrying(
        sleep=sleep,  # type: ignore[arg-type]
        stop=stop_after_attempt(attempts),
        wait=seconds,
        retry=retry_if_exception_type(retry_on),
        reraise=True,
    )


class LoopLocal(Generic[T]):
    """One object for each event loop, such as a semaphore or a connection, for owners that outlive `asyncio.run`.

    Args:
        make: makes the object, inside its loop.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: tuple[asyncio.AbstractEventLoop, T] | None = None

    def get(self) -> T:
        """Return the object of the running loop; make it at the first call."""
        loop = asyncio.get_running_loop()
        if self._made is None or self._made[0] is not loop:
            self._made = (loop, self._make())
        return self._made[1]

    def take(self) -> T | None:
        """Return the object of the running loop and forget it; None where there is none."""
        made, self._made = self._made, None
        return made[1] if made is not None and made[0] is asyncio.get_running_loop() else None


# Functions of a person's own that run at once in one process; one that its caller has given up no longer counts.
_THREADS = LoopLocal(lambda: asyncio.Semaphore(32))


class RateLimiter:
    """Admit callers one by one, first come, first served, at most N a minute. Belongs to one event loop.

    Args:
        per_minute: admissions in any 60 seconds at most.
        clock: monotonic seconds.
        sleep: waits for some seconds.
    """

    def __init__(self, per_minute: float, *, clock: Clock = time.monotonic, sleep: Sleep = asyncio.sleep) -> None:
        self._interval = 60.0 / per_minute
        self._clock, self._sleep = clock, sleep
        self._next = float("-inf")
        self._turn = asyncio.Lock()

    async def acquire(self) -> None:
        """Wait for admission. A caller that is cancelled while it waits costs the others nothing."""
        async with self._turn:
            while (wait := self._next - self._clock()) > 0:
                await self._sleep(wait)
            self._next = self._clock() + self._interval


class ClientLimits:
    """Admit or refuse the requests of clients, without waiting: each client has N admissions in any 60 seconds.

    A client may use them at once, unlike a caller of `RateLimiter`. Refused requests do not count.

    Args:
        per_minute: admissions of one client in any 60 seconds at most.
        most_clients: clients that are remembered; beyond that the one that was quiet for longest is forgotten.
        clock: monotonic seconds.
    """

    def __init__(self, per_minute: int, *, most_clients: int = 10_000, clock: Clock = time.monotonic) -> None:
        self._most, self._most_clients, self._clock = per_minute, most_clients, clock
        # The times of admissions of each client; the client with the latest one comes last.
        self._admitted: OrderedDict[str, deque[float]] = OrderedDict()

    def admit(self, client: str) -> float:
        """Admit a request and return 0.0, or return the seconds after which the client may send its next one."""
        now = self._clock()
        while self._admitted:
            quiet = next(iter(self._admitted.values()))
            if quiet[-1] > now - 60.0 and len(self._admitted) < self._most_clients:
                break
            self._admitted.popitem(last=False)
        times = self._admitted.setdefault(client, deque())
        while times and times[0] <= now - 60.0:
            times.popleft()
        if len(times) >= self._most:
            return times[0] + 60.0 - now
        times.append(now)
        self._admitted.move_to_end(client)
        return 0.0
