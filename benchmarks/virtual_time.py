"""An event loop whose clock jumps: hours of waiting take the seconds in which the code between the waits runs."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):  # type: ignore[misc, valid-type, unused-ignore]
    """A selector that, where it would wait, moves the clock on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("everything waits for something that never comes")
            self.now += max(0.0, timeout)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time. Work for threads is done at once, in the loop, and takes no time."""

    def __init__(self) -> None:
        self._clock = _Jumping()
        super().__init__(self._clock)

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._clock.now

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Call the function now."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as fault:
            done.set_exception(fault)
        return done


@contextmanager
def virtual_clock() -> Iterator[VirtualLoop]:
    """Make a loop, and have `time.monotonic` tell its time."""
    loop = VirtualLoop()
    with mock.patch("time.monotonic", loop.time):
        yield loop
    loop.close()


def run(work: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in virtual time, and return its value."""
    with virtual_clock() as loop, asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work(loop))
