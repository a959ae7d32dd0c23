"""A run that is being viewed: its index, images and thumbnails, and the thread that keeps the index up to date."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from agentfly.errors import AgentFlyError, ConfigError
from agentfly.images import ImageStore
from agentfly.viewer.index import Index
from agentfly.viewer.index.index import State
from agentfly.viewer.links import ServerLinks
from agentfly.viewer.runs.folder import RunFolder
from agentfly.viewer.runs.metrics import Metrics, MetricsFile
from agentfly.viewer.runs.notices import LogNotices, RunLogs
from agentfly.viewer.thumbnails import Thumbnails

logger = logging.getLogger(__name__)

_IDLE = 1.0  # seconds between two looks at the files of a run
_IMAGE_BYTES = 64 * 2**20  # decoded images of one folder that are kept in memory


class OpenRun:
    """A run that is being viewed.

    Args:
        run: the run.

    Attributes:
        index: of its chains.
        thumbnails: of its images.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.index = Index(run)
        self.thumbnails = Thumbnails(run.home / "thumbnails")
        self._metrics = None if run.training is None else MetricsFile(run.training / "metrics.jsonl")
        self._logs = None if run.training is None else RunLogs(run.training / "logs")
        self._wanted, self._closed = threading.Event(), threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def up_to_date(self, seconds: float) -> State:
        """Read what is new for at most so many seconds, leave the rest to a thread, and return how far the index is.

        Raises:
            ConfigError: the run is gone, or its index cannot be written and has no chain that could be shown.
        """
        problem = ""
        self._require()
        try:
            if not self.index.refresh(seconds):
                self._go_on()
        except ConfigError as fault:
            self._require()
            # A full disk is no reason to hide what was read before.
            if not self.index.state().chains:
                raise
            problem = str(fault)
        state = self.index.state()
        return replace(state, problem=problem, revision=f"{state.revision}-{self._marks()}")

    def metrics(self) -> Metrics:
        """Return the metrics of its training so far; none where nothing is trained."""
        return Metrics() if self._metrics is None else self._metrics.read()

    def notices(self) -> LogNotices:
        """Return the warnings of its trainer so far; none where nothing is trained."""
        return LogNotices() if self._logs is None else self._logs.read()

    def links(self) -> ServerLinks:
        """Return the addresses of its pages, and of those of its images that were kept."""
        if not self.index.path.exists():  # a run of image generation
            return ServerLinks(self.run.slug)
        images = {str(part.path): part.images for part in self.run.parts()}
        parts = self.index.query("SELECT part, path FROM parts")
        known = {row["part"]: images[row["path"]] for row in parts if row["path"] in images}
        return ServerLinks(self.run.slug, folders=known)

    def images(self, part: int) -> ImageStore:
        """Return the images of a part.

        Raises:
            KeyError: there is no such part.
        """
        folder = self.index.part(part).images
        # Looking at a run makes no folder in it.
        return _store(folder) if folder.is_dir() else ImageStore()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(10.0)

    def _require(self) -> None:
        if not self.run.path.exists():
            raise ConfigError(f"the run {str(self.run.path)!r} is gone")

    def _marks(self) -> str:
        """Return what changes with the files beside the trajectories."""
        found = []
        for path in self.run.marks():
            try:
                found.append((path.stat().st_size, path.stat().st_mtime_ns))
            except OSError:
                found.append((0, 0))
        return hashlib.sha256(repr(found).encode()).hexdigest()[:8]

    def _go_on(self) -> None:
        self._wanted.set()
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._keep_reading, name=f"index-{self.run.slug}", daemon=True)
                self._thread.start()

    def _keep_reading(self) -> None:
        while not self._closed.is_set():
            self._wanted.wait()
            try:
                if self._closed.is_set() or self.index.refresh(_IDLE):
                    self._wanted.clear()
            except AgentFlyError as fault:
                logger.warning("%s", fault)
                self._wanted.clear()


class Viewer:
    """All runs of one viewer.

    Args:
        runs: by their place on the command line; their slugs are unique.
    """

    def __init__(self, runs: Sequence[RunFolder]) -> None:
        self.runs: Mapping[str, OpenRun] = {run.slug: OpenRun(run) for run in runs}

    def __getitem__(self, slug: str) -> OpenRun:
        return self.runs[slug]

    def close(self) -> None:
        """End all threads."""
        for run in self.runs.values():
            run.close()


@lru_cache(maxsize=32)
def _store(folder: Path) -> ImageStore:
    """Return the images of a folder, of which few are kept in memory."""
    return ImageStore(folder, max_bytes=_IMAGE_BYTES)
