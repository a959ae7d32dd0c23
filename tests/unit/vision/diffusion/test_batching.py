"""Requests that arrive together run together, and abandoned ones stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from agentfly.vision.diffusion.batching import Abandoned, Batcher, Stopped
from agentfly.vision.model_runtime import OutOfMemory

LONG = 30.0


class Engine:
    """Records its batches; can be held in the middle of one."""

    def __init__(self, *, max_batch: int = 4, window: float = 0.0, threads: int = 1, fits: int = 100) -> None:
        self.batches: list[list[str]] = []
        self.held = threading.Event()
        self.held.set()
        self.started = threading.Event()
        self.stopped = threading.Event()
        self.fits = fits
        self.batcher: Batcher[str, str] = Batcher(self.run, max_batch=max_batch, window=window, threads=threads)

    def run(self, requests: Sequence[str], abandoned: Abandoned) -> list[str]:
        self.batches.append(list(requests))
        self.started.set()
        if len(requests) > self.fits:
            raise OutOfMemory("too large")
        while not self.held.wait(0.001):
            if abandoned():
                self.stopped.set()
                raise Stopped
        if "bad" in requests:
            raise ValueError("bad request")
        return [request.upper() for request in requests]

    def hold(self) -> None:
        self.held.clear()
        self.started.clear()

    async def submit(self, request: str, key: str = "k") -> str:
        return await self.batcher.submit(key, request)

    async def occupied(self) -> asyncio.Task[str]:
        """The engine at work on a request of its own, until it is released."""
        self.hold()
        task = asyncio.create_task(self.submit("first", "other"))
        await asyncio.to_thread(self.started.wait, 5)
        return task


async def test_a_full_batch_does_not_wait_for_its_window() -> None:
    engine = Engine(max_batch=3, window=LONG)
    assert await asyncio.gather(*(engine.submit(letter) for letter in "abc")) == ["A", "B", "C"]
    assert engine.batches == [["a", "b", "c"]]


async def test_a_request_alone_runs_when_its_window_ends() -> None:
    engine = Engine(window=0.02)
    assert await engine.submit("a") == "A"
    assert engine.batches == [["a"]]


async def test_requests_that_came_while_it_was_busy_go_together_by_key_oldest_first() -> None:
    engine = Engine(max_batch=2, window=0.0)
    first = await engine.occupied()
    rest = [asyncio.create_task(engine.submit(name, key)) for name, key in ("ax", "by", "cx", "dx", "ey")]
    await asyncio.sleep(0)
    engine.held.set()
    assert await asyncio.gather(first, *rest) == ["FIRST", "A", "B", "C", "D", "E"]
    assert engine.batches[1:] == [["a", "c"], ["b", "e"], ["d"]]


async def test_a_request_that_is_cancelled_while_it_waits_never_runs() -> None:
    engine = Engine()
    first = await engine.occupied()
    waiting = [asyncio.create_task(engine.submit(name)) for name in "ab"]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    engine.held.set()
    assert [*await asyncio.gather(first, waiting[1])] == ["FIRST", "B"]
    assert engine.batches == [["first"], ["b"]]


async def test_a_run_stops_when_the_last_of_its_batch_is_cancelled_and_not_before() -> None:
    engine = Engine(max_batch=2, window=LONG)
    engine.hold()
    tasks = [asyncio.create_task(engine.submit(name)) for name in "ab"]
    await asyncio.to_thread(engine.started.wait, 5)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    assert not engine.stopped.wait(0.02)
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    assert await asyncio.to_thread(engine.stopped.wait, 5)
    engine.held.set()
    assert [*await asyncio.gather(engine.submit("c"), engine.submit("d"))] == ["C", "D"]


async def test_what_one_of_a_batch_left_behind_is_done_for_the_other() -> None:
    engine = Engine(max_batch=2, window=LONG)
    engine.hold()
    tasks = [asyncio.create_task(engine.submit(name)) for name in "ab"]
    await asyncio.to_thread(engine.started.wait, 5)
    tasks[0].cancel()
    engine.held.set()
    assert await tasks[1] == "B"


async def test_a_batch_that_does_not_fit_into_memory_runs_one_by_one() -> None:
    engine = Engine(max_batch=3, window=LONG, fits=1)
    assert await asyncio.gather(*(engine.submit(letter) for letter in "abc")) == ["A", "B", "C"]
    assert engine.batches == [["a", "b", "c"], ["a"], ["b"], ["c"]]


async def test_a_request_that_does_not_fit_alone_is_an_observation() -> None:
    with pytest.raises(OutOfMemory):
        await Engine(fits=0).submit("a")


async def test_a_fault_reaches_everybody_of_the_batch_and_the_next_batch_runs() -> None:
    engine = Engine(max_batch=2, window=LONG)
    both = await asyncio.gather(engine.submit("bad"), engine.submit("a"), return_exceptions=True)
    assert [str(fault) for fault in both] == ["bad request"] * 2
    assert [*await asyncio.gather(engine.submit("b"), engine.submit("c"))] == ["B", "C"]


async def test_two_threads_run_two_batches_at_once() -> None:
    engine = Engine(threads=2)
    first = await engine.occupied()
    engine.started.clear()
    second = asyncio.create_task(engine.submit("a"))
    assert await asyncio.to_thread(engine.started.wait, 5)
    engine.held.set()
    assert [*await asyncio.gather(first, second)] == ["FIRST", "A"]


def test_one_event_loop_after_the_other() -> None:
    engine = Engine()
    assert [asyncio.run(engine.submit(letter)) for letter in "ab"] == ["A", "B"]


async def test_closing_cancels_what_waits() -> None:
    engine = Engine()
    first = await engine.occupied()
    waiting = asyncio.create_task(engine.submit("a"))
    await asyncio.sleep(0)
    engine.batcher.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    engine.held.set()
    assert await first == "FIRST"
