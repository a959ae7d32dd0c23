"""Wait with a limit: one piece of work within a time limit, several that stop together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class Overtime(Exception):
    """The work was not done in time."""


class Abandoned(Exception):
    """The work was cancelled, but not by us."""


async def bounded(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """The result of `work`, within `seconds`.

    Not `wait_for`, which waits for work that does not react to its cancellation: what hangs must not hang us.

    Raises:
        Overtime: the work takes longer. It is cancelled, and not waited for.
        Abandoned: the work cancelled itself, which must not look as if the caller were cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=None if math.isinf(seconds) else max(0.0, seconds))
        if task.cancelled():
            raise Abandoned
        if task.done():
            return task.result()
    finally:
        if task.done():
            _forget(task)
        else:
            task.add_done_callback(_forget)
            task.cancel()
    raise Overtime


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results in order. When one piece fails, or the caller is cancelled, all the others are stopped first."""
    tasks = [asyncio.ensure_future(piece) for piece in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        left = [task for task in tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


def _forget(task: asyncio.Future[Any]) -> None:
    # Whatever it says now comes too late; asking for it keeps asyncio from logging it as unread.
    if not task.cancelled():
        task.exception()
