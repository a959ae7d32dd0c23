"""The data of requests: how much of it a server holds at once, and JSON that takes bounded time to read."""

from __future__ import annotations

import hmac
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from agentfly.lenient_json import MOST_VALUES, count_separators
from agentfly.serving.errors import RequestRefused, ServerFault


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


def check_key(headers: Mapping[bytes, bytes], key: bytes) -> None:
    """Raise `RequestRefused` unless a request brings the key of the server, compared in constant time.

    Args:
        headers: of the request, names in lower case.
        key: of the server.
    """
    scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
    if not hmac.compare_digest(sent.strip(), key) or scheme.lower() != b"bearer":
        raise RequestRefused(
            "a key is needed: send it as Authorization: Bearer KEY", status=401, code="invalid_api_key"
        )


def check_length(headers: Mapping[bytes, bytes], most: int) -> None:
    """Raise `RequestRefused` for a body that is too large by its Content-Length, or whose length is no number.

    Args:
        headers: of the request, names in lower case.
        most: bytes of a body.
    """
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length[:20]) > most:
        raise too_large(most)


def too_large(most: int) -> RequestRefused:
    """Return the error for a body of more than `most` bytes."""
    return RequestRefused(f"the body of a request has {most} bytes at most", status=413, code="body_too_large")


def check_values(separators: int) -> None:
    """Raise `RequestRefused` for a body with too many values.

    Args:
        separators: of the body, or of its part so far; see `agentfly.lenient_json.count_separators`.
    """
    if separators > MOST_VALUES:
        raise RequestRefused(f"the body has more than {MOST_VALUES} commas and brackets", code="too_many_values")


def parse_json(data: bytes | bytearray) -> object:
    """Return the value of a body of JSON.

    Raises:
        RequestRefused: it has too many values.
        ValueError, RecursionError: it is no JSON.
    """
    check_values(count_separators(data))
    value: object = json.loads(data)
    return value


def is_text(value: str) -> bool:
    """Return False for a text with half of a surrogate pair, which JSON can hold and no encoding can."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
