"""The data of requests: how much of it a server holds at once, and JSON that takes bounded time to read."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from agentfly.serving.errors import RequestRefused, ServerFault

# Commas and opening brackets in a body of JSON. There is one for each value, and images in base64 have none. A million
# values take a second to read, during which the interpreter does nothing else, in whatever thread that happens.
_MOST_SEPARATORS = 100_000


class RequestMemory:
    """The bytes of bodies and decoded images that all requests hold together.

    Args:
        most: bytes at most. A request that is alone may take more, since its own limits bound it.
    """

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self.lock = threading.Lock()


class HeldMemory:
    """The share of one request, given back at the end of a `with` block.

    May be used from several threads. A thread that goes on after the block, since nobody waits for it any more, gets no
    more memory.

    Args:
        memory: of the server.

    Attributes:
        size: bytes that the request holds.
    """

    def __init__(self, memory: RequestMemory) -> None:
        self._memory, self.size = memory, 0
        self._over = False

    def __enter__(self) -> HeldMemory:
        return self

    def __exit__(self, *_: object) -> None:
        with self._memory.lock:
            self._over = True
            self._memory.used -= self.size
            self.size = 0

    def take(self, size: int) -> None:
        """Add `size` bytes; give bytes back if it is negative.

        Raises:
            ServerFault: there is no room, for now, or the request is over.
        """
        memory = self._memory
        with memory.lock:
            if self._over:
                if size > 0:
                    raise ServerFault("this request is over", status=499)
                return
            if size > 0 and memory.used > self.size and memory.used + size > memory.most:
                raise ServerFault(
                    "the images of other requests fill the memory of this server: try again in 1 s",
                    status=503,
                    code="memory_full",
                    retry_after=1,
                )
            memory.used += size
            self.size += size

    @contextmanager
    def during(self, size: int) -> Iterator[None]:
        """Hold `size` bytes more during a `with` block.

        Raises:
            ServerFault: see `take`.
        """
        self.take(size)
        try:
            yield
        finally:
            self.take(-size)


def parse_json(data: bytes | bytearray) -> object:
    """Return the value of a body of JSON.

    Raises:
        RequestRefused: it has too many values.
        ValueError, RecursionError: it is no JSON.
    """
    if sum(data.count(char) for char in (b",", b"[", b"{")) > _MOST_SEPARATORS:
        raise RequestRefused(f"the body has more than {_MOST_SEPARATORS} commas and brackets", code="too_many_values")
    value: object = json.loads(data)
    return value


def is_text(value: str) -> bool:
    """Return False for a text with half of a surrogate pair, which JSON can hold and no encoding can."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
