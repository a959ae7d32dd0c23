"""Raise exceptions for signals while a run is watched."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def signals_raise() -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Turn SIGTERM into SystemExit, as Python turns SIGINT into KeyboardInterrupt.

    Yields a function; in the context that it returns, both signals are ignored. Signals reach the main thread only, so
    in other threads nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield contextlib.nullcontext
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    @contextlib.contextmanager
    def ignore_signals() -> Iterator[None]:
        before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)]
        try:
            yield
        finally:
            for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
                signal.signal(number, handler)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield ignore_signals
    finally:
        signal.signal(signal.SIGTERM, before)
