"""At most N requests a minute, strictly: spaced for those that we send, counted by client for those that we serve.

`RateLimiter` spaces admissions by 60 / N seconds. A bucket that holds N tokens, as `aiolimiter.AsyncLimiter(N, 60)`
does, admits N at once and refills while they run, so its first minute sees almost 2 N, and a server that counts answers
429. Here the bucket holds one token: every window of 60 seconds sees N admissions at most, and 60 requests at 6 a
minute take 59 intervals of 10 seconds. The clock is an argument, which aiolimiter, bound to its event loop's, does not
offer.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
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


class ClientLimits:
    """Admits or refuses the requests of clients, without waiting: each client has N admissions in any 60 seconds.

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
        self._forget(now - 60.0)
        times = self._admitted.setdefault(client, deque())
        while times and times[0] <= now - 60.0:
            times.popleft()
        if len(times) >= self._most:
            return times[0] + 60.0 - now
        times.append(now)
        self._admitted.move_to_end(client)
        return 0.0

    def _forget(self, before: float) -> None:
        while self._admitted:
            quiet = next(iter(self._admitted.values()))
            if quiet[-1] > before and len(self._admitted) < self._most_clients:
                return
            self._admitted.popitem(last=False)
