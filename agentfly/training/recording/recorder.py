"""Write chains and their images beside the rollout: a thread takes them from a queue and writes them in their order.

A rollout never waits for the disk. What a process loses when it is killed are the chains in its queue. A line is
written after the images that it names are on the disk; where they could not be kept, it says so (`images_kept`).
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

from agentfly.agents import Trajectory
from agentfly.agents.trajectory_file import TrajectoryLine, append_line
from agentfly.images import ImageStore
from agentfly.images.store import HANDLE
from agentfly.training.launch.log_reader import NOTICE
from agentfly.training.recording.image_budget import ImageBudget

logger = logging.getLogger(__name__)

_MOST_CHAINS = 1024  # in the queue
_MOST_BYTES = 1024**3  # decoded pixels that the queue keeps in memory
_BATCH = 16  # chains whose images are synced together
_EXIT_SECONDS = 10.0


@dataclass(frozen=True)
class Record:
    """A chain to write.

    Attributes:
        trajectory: nothing changes it any more.
        store: its images; None where the queue has no room for them.
        step: training step.
        row: number of the task in its file.
        validate: the chain belongs to a validation.
        credit, audit: see `TrajectoryLine.of_chain`.
    """

    trajectory: Trajectory
    store: ImageStore | None
    step: int
    row: int
    validate: bool = False
    credit: tuple[float, ...] = ()
    audit: float | None = None

    @property
    def handles(self) -> set[str]:
        """The images of the conversation, those that the tools made with their masks, and the answer."""
        records = self.trajectory.tool_records
        made = {handle for record in records for handle in record.images}
        masks = {mask for record in records if HANDLE.fullmatch(mask := str(record.data.get("mask", "")))}
        return {*self.trajectory.images, *made, *masks, *filter(None, [self.trajectory.final_image])}


class ChainRecorder:
    """Writes the chains of one process.

    Args:
        log: file of the lines; None writes none.
        images: the limit of the images and their folder; None keeps none.
    """

    def __init__(self, log: Path | None, images: ImageBudget | None) -> None:
        self._log, self._images = log, images
        self._store: ImageStore | None = None
        self._waiting: deque[tuple[Record, int]] = deque()
        self._bytes = 0  # of the images in the queue
        self._put = self._written = 0  # chains so far
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._warned: set[str] = set()

    def record(self, record: Record) -> None:
        """Put a chain into the queue. Never waits.

        Where the queue is full, because the disk is too slow, the chain is written without its images.
        """
        if self._log is None and self._images is None:
            return
        size = 0 if self._images is None or record.store is None else record.store.memory_bytes
        with self._changed:
            if len(self._waiting) >= _MOST_CHAINS:
                self._warn("queue", "the disk is too slow for the chains of this run: some are not written")
                return
            if self._images is None or (self._waiting and self._bytes + size > _MOST_BYTES):
                if size:
                    self._warn("images", "the disk is too slow for the images of this run: some chains lose theirs")
                record, size = replace(record, store=None), 0
            self._waiting.append((record, size))
            self._bytes += size
            self._put += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="agentfly-recorder", daemon=True)
                self._thread.start()
                atexit.register(self.drain, _EXIT_SECONDS)
            self._changed.notify_all()

    def drain(self, limit: float) -> bool:
        """Wait until the chains that are in the queue now are written.

        Args:
            limit: seconds.

        Returns:
            False if they were not written in time.
        """
        with self._changed:
            wanted = self._put
            return self._changed.wait_for(lambda: self._written >= wanted, limit)

    def _run(self) -> None:
        while True:
            self._write_next()

    def _write_next(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting))
            taken = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        try:
            self._write([record for record, _ in taken])
        except Exception as fault:  # the boundary of the thread: it has to go on with the next chains
            self._warn("bug", f"chains were not written: {type(fault).__name__}: {fault}")
        finally:
            with self._changed:
                self._bytes -= sum(size for _, size in taken)
                self._written += len(taken)
                self._changed.notify_all()

    def _write(self, records: list[Record]) -> None:
        kept = [self._keep_images(record) for record in records]
        if self._store is not None and any(kept):
            try:
                self._store.sync()
            except OSError as fault:
                self._warn("disk", f"images of chains cannot be kept, and training goes on without: {fault}")
                kept = [False] * len(records)
        for record, images in zip(records, kept, strict=True):
            if self._log is None:
                continue
            line = TrajectoryLine.of_chain(
                record.trajectory,
                step=record.step,
                validate=record.validate,
                images_kept=images,
                credit=record.credit,
                audit=record.audit,
            )
            try:
                append_line(self._log, line)
            except OSError as fault:
                self._warn("lines", f"chains cannot be logged, and training goes on without: {fault}")

    def _keep_images(self, record: Record) -> bool:
        """Keep the images of a chain, and return True if all of them are kept."""
        if self._images is None or record.store is None:
            return False
        try:
            if self._store is None:
                self._store = ImageStore(self._images.folder, max_bytes=0)
            if not self._images.allows(record.step, record.row, validate=record.validate):
                return False
            files = {handle: self._images.folder / f"{handle}.png" for handle in record.handles}
            new = [path for path in files.values() if not path.exists()]
            self._store.copy_from(record.store, files)
            self._images.spend(sum(path.stat().st_size for path in new if path.exists()))
            return all(path.exists() for path in files.values())
        except OSError as fault:
            self._warn("disk", f"images of chains cannot be kept, and training goes on without: {fault}")
            return False

    def _warn(self, kind: str, text: str) -> None:
        """Tell the user, once for each kind of fault."""
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s %s", NOTICE, text)
