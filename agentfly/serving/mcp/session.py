"""Sessions: the images of one client by name, within a budget of memory, and the tools on them."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from PIL import Image

from agentfly.errors import ImageError, ToolError
from agentfly.images import ImageStore, ImageView
from agentfly.images.load import memory_of
from agentfly.images.store import handle_of
from agentfly.tools import Toolset

_NO_SPILL = 2**62
# Bytes that an image takes beside its pixels: an image of one pixel has four.
_OVERHEAD = 2048


class ImageBudget:
    """The memory of the images of all sessions. What was not used for longest is forgotten first.

    Args:
        most: bytes at most.
    """

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._held: OrderedDict[tuple[SessionStore, str], int] = OrderedDict()
        self._lock = threading.RLock()

    def take(self, store: SessionStore, handle: str, size: int) -> None:
        """Add an image, and forget others until it fits.

        Args:
            store: of its session.
            handle: of the image.
            size: bytes of its pixels.

        Raises:
            ToolError: it is larger than a session may be.
        """
        if size > min(store.most, self.most):
            raise ToolError(
                f"this image takes {size} bytes, and a session keeps {min(store.most, self.most)}: use a smaller one"
            )
        with self._lock:
            if self.used + size > self.most or store.used + size > store.most:
                self._make_room(store, size)
            self._held[store, handle] = size
            self.used += size
            store.used += size

    def _make_room(self, store: SessionStore, size: int) -> None:
        for owner, old in list(self._held):
            fits_all = self.used + size <= self.most
            if fits_all and store.used + size <= store.most:
                return
            if owner is store or not fits_all:
                self.forget(owner, old)

    def touch(self, store: SessionStore, handle: str) -> None:
        """Note that an image was used."""
        with self._lock:
            if (store, handle) in self._held:
                self._held.move_to_end((store, handle))

    def holds(self, store: SessionStore, handle: str) -> bool:
        """Return True if an image is kept."""
        return (store, handle) in self._held

    def forget(self, store: SessionStore, handle: str) -> None:
        """Forget one image."""
        with self._lock:
            size = self._held.pop((store, handle), 0)
            self.used -= size
            store.used -= size
            store.discard(handle)

    def forget_all(self, store: SessionStore) -> None:
        """Forget the images of a session that is over."""
        with self._lock:
            for owner, handle in list(self._held):
                if owner is store:
                    self.forget(owner, handle)


class SessionStore(ImageStore):
    """The images of one session, in memory.

    Args:
        budget: of all sessions.
        most: bytes of this one.

    Attributes:
        used: bytes that it holds.
    """

    def __init__(self, budget: ImageBudget, most: int) -> None:
        super().__init__(max_bytes=_NO_SPILL)
        self.most, self.used = most, 0
        self._budget = budget

    def put(self, image: Image.Image) -> str:
        """Keep an image, and return its handle; see `ImageBudget.take`."""
        handle = handle_of(image)
        if self._budget.holds(self, handle):
            self._budget.touch(self, handle)
            return handle
        self._budget.take(self, handle, memory_of(image) + _OVERHEAD)
        return super().put(image)

    def get(self, handle: str) -> Image.Image:
        """Return a copy of an image.

        Raises:
            ImageError: it was forgotten.
        """
        if not self._budget.holds(self, handle):
            raise ImageError("this image is not held any more, as others were used since: open or make it again")
        self._budget.touch(self, handle)
        return super().get(handle)

    def held(self, handle: str) -> bool:
        """Return True if an image was not forgotten."""
        return self._budget.holds(self, handle)


@dataclass
class Session:
    """The state of one client.

    Attributes:
        view: its images by name.
        tools: on these images.
        store: keeps them.
        idle_since: end of its last request over HTTP, in `time.monotonic()` seconds.
    """

    view: ImageView
    tools: Toolset
    store: SessionStore
    idle_since: float = field(default_factory=time.monotonic)


class Sessions:
    """All sessions of a server; none sees the images of another.

    Args:
        make_tools: makes the tools of a session, on its images.
        session_bytes: of the images of each.
        memory_bytes: of the images of all together.
        idle_seconds: after which a session without requests is over.
    """

    def __init__(
        self,
        make_tools: Callable[[ImageView], Toolset],
        *,
        session_bytes: int,
        memory_bytes: int,
        idle_seconds: float = float("inf"),
    ) -> None:
        self._make_tools, self._session_bytes, self._idle_seconds = make_tools, session_bytes, idle_seconds
        self.budget = ImageBudget(memory_bytes)
        self._sessions: dict[str, Session] = {}
        self._active: Counter[str] = Counter()

    def get(self, name: str) -> Session:
        """Return the session of a name; one that is new has no images."""
        if name not in self._sessions:
            store = SessionStore(self.budget, self._session_bytes)
            view = ImageView(store)
            self._sessions[name] = Session(view, self._make_tools(view), store)
        return self._sessions[name]

    def __len__(self) -> int:
        return len(self._sessions)

    @contextmanager
    def during_request(self, name: str) -> Iterator[None]:
        """Keep a session from being idle during a request."""
        self._active[name] += 1
        try:
            yield
        finally:
            self._active[name] -= 1
            if not self._active[name]:
                del self._active[name]
            if (session := self._sessions.get(name)) is not None:
                session.idle_since = time.monotonic()

    def end(self, name: str) -> None:
        """Forget a session and its images."""
        session = self._sessions.pop(name, None)
        if session is not None:
            self.budget.forget_all(session.store)

    def end_idle(self) -> None:
        """Forget the sessions that were idle for too long."""
        due = time.monotonic() - self._idle_seconds
        for name, session in list(self._sessions.items()):
            if session.idle_since < due and name not in self._active:
                self.end(name)
