"""The limit holds in every window, in order, and whatever is cancelled."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly.agents.llm_backends import RateLimiter
from agentfly.aio import (
    CancelledItself,
    ClientLimits,
    Stepped,
    TimeLimitExceeded,
    awaited,
    call_in_thread,
    with_timeout,
    with_waiting_limit,
)


class FakeTime:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds


async def test_sixty_requests_at_six_a_minute() -> None:
    time = FakeTime()
    limiter = RateLimiter(6, clock=time.clock, sleep=time.sleep)
    admitted: list[tuple[int, float]] = []

    async def one(index: int) -> None:
        await limiter.acquire()
        admitted.append((index, time.now))

    await asyncio.gather(*(one(index) for index in range(60)))
    assert [index for index, _ in admitted] == list(range(60))
    assert admitted[-1][1] == 590.0


@given(limit=st.integers(1, 120), pauses=st.lists(st.floats(0, 30), min_size=1, max_size=60))
def test_no_minute_sees_more_than_the_limit(limit: int, pauses: list[float]) -> None:
    async def admissions() -> list[float]:
        time, out = FakeTime(), []
        limiter = RateLimiter(limit, clock=time.clock, sleep=time.sleep)
        for pause in pauses:
            time.now += pause
            await limiter.acquire()
            out.append(time.now)
        return out

    times = asyncio.run(admissions())
    for start in times:
        assert sum(start <= t < start + 60.0 - 1e-6 for t in times) <= limit


async def test_an_idle_caller_does_not_wait() -> None:
    time = FakeTime()
    limiter = RateLimiter(6, clock=time.clock, sleep=time.sleep)
    await limiter.acquire()
    time.now = 10.0
    await limiter.acquire()
    assert time.now == 10.0


async def test_cancelled_waiters_give_their_place_away() -> None:
    now, wake = 0.0, asyncio.Event()

    async def sleep(_: float) -> None:
        await wake.wait()

    limiter = RateLimiter(6, clock=lambda: now, sleep=sleep)
    await limiter.acquire()
    waiting = [asyncio.create_task(limiter.acquire()) for _ in range(50)]
    await asyncio.sleep(0)
    for task in waiting[:-1]:
        task.cancel()
    now = 10.0
    wake.set()
    await asyncio.wait_for(waiting[-1], 1)


@given(
    limit=st.integers(1, 5),
    calls=st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 40)), min_size=1, max_size=60),
)
def test_no_client_has_more_admissions_in_a_minute_and_none_pays_for_another(
    limit: int, calls: list[tuple[str, float]]
) -> None:
    time = FakeTime()
    limits = ClientLimits(limit, clock=time.clock)
    admitted: dict[str, list[float]] = {"a": [], "b": []}
    for client, pause in calls:
        time.now += pause
        recent = [at for at in admitted[client] if at > time.now - 60.0]
        wait = limits.admit(client)
        if len(recent) < limit:
            assert wait == 0.0
            admitted[client].append(time.now)
        else:
            # When the wait is over, the oldest of the minute is out of it.
            assert wait > 0.0
            assert abs(time.now + wait - (recent[0] + 60.0)) < 1e-9


def test_clients_that_are_quiet_are_forgotten_and_their_number_is_bounded() -> None:
    time = FakeTime()
    limits = ClientLimits(1, most_clients=3, clock=time.clock)
    for client in "abcd":
        time.now += 1.0
        assert limits.admit(client) == 0.0
    assert (len(limits._admitted), limits.admit("d")) == (3, 60.0)
    assert limits.admit("a") == 0.0
    time.now += 61.0
    limits.admit("e")
    assert list(limits._admitted) == ["e"]


async def test_the_longest_step_of_a_coroutine_is_measured_and_everything_passes_through() -> None:
    async def work(fails: bool) -> str:
        await asyncio.sleep(0)
        time.sleep(0.02)
        try:
            await asyncio.Event().wait() if fails else await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            return "cancelled inside"
        return "done"

    steps, began = Stepped(work(fails=False)), time.perf_counter()
    assert await steps == "done"
    # The sleep of the event loop is no step.
    assert 0.02 <= steps.longest < time.perf_counter() - began - 0.15
    task = asyncio.ensure_future(awaited(Stepped(work(fails=True))))
    await asyncio.sleep(0.03)
    task.cancel()
    assert await task == "cancelled inside"


async def test_a_fault_of_a_stepped_coroutine_is_its_own() -> None:
    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await Stepped(failing())


def test_a_function_that_never_returns_keeps_no_event_loop_from_closing() -> None:
    never = threading.Event()

    async def call() -> None:
        for _ in range(40):  # more than may run at once: one that was given up takes no place
            with pytest.raises(TimeLimitExceeded):
                await with_timeout(call_in_thread(never.wait, 20.0), 0.005)

    began = time.monotonic()
    asyncio.run(call())
    assert time.monotonic() - began < 10.0
    never.set()


async def test_a_function_in_a_thread_sees_the_context_and_its_faults_are_its_own() -> None:
    known: ContextVar[int] = ContextVar("known")
    known.set(3)
    assert await call_in_thread(known.get) == 3

    def fail(fault: BaseException) -> None:
        raise fault

    with pytest.raises(ValueError, match="mine"):
        await call_in_thread(fail, ValueError("mine"))
    for fault, words in ((SystemExit(2), "SystemExit: 2"), (StopIteration(), "StopIteration")):
        with pytest.raises(RuntimeError, match=words):
            await call_in_thread(fail, fault)


async def test_a_step_longer_than_the_limit_is_not_waiting_and_work_that_hangs_is_found() -> None:
    loop = asyncio.get_running_loop()

    async def work(hangs: bool) -> str:
        began = time.perf_counter()
        while time.perf_counter() - began < 0.05:  # as an import does: the event loop stands still
            pass
        for _ in range(3):
            await asyncio.sleep(0)
        if hangs:
            await asyncio.Event().wait()
        return "done"

    assert await with_waiting_limit(work(hangs=False), 0.02) == "done"
    with pytest.raises(TimeLimitExceeded):
        await with_timeout(work(hangs=False), 0.02)
    began = loop.time()
    with pytest.raises(TimeLimitExceeded):
        await with_waiting_limit(work(hangs=True), 0.02)
    assert loop.time() - began >= 0.05


async def test_a_limit_on_waiting_passes_results_faults_and_cancellation_through() -> None:
    async def failing() -> None:
        raise ValueError("mine")

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ValueError, match="mine"):
        await with_waiting_limit(failing(), 5.0)
    with pytest.raises(CancelledItself):
        await with_waiting_limit(cancelled(), 5.0)
    begun, ended = asyncio.Event(), asyncio.Event()

    async def waiting() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.ensure_future(with_waiting_limit(waiting(), 60.0))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ended.wait()
