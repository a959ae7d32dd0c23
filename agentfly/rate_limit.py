"""At most N requests a minute, strictly: admissions are spaced by 60 / N seconds.

A bucket that holds N tokens, as `aiolimiter.AsyncLimiter(N, 60)` does, admits N at once and refills while they run, so
its first minute sees almost 2 N, and a server that counts answers 429. Here the bucket holds one token: every window of
60 seconds sees N admissions at most, and 60 requests at 6 a minute take 59 intervals of 10 seconds. The clock is an
argument, which aiolimiter, bound to its event loop's, does not offer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[object]]


class RateLimiter:
    """Admits callers one by one, first come first served. Belongs to one event loop.

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
