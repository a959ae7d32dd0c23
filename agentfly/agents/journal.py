"""A run that survives its process: every finished chain is one line on disk before it counts as done.

A log folder holds `trajectories.jsonl` and the pictures in `images/`. A line is written in one append and synced, after
its pictures; so a process that is killed at any moment loses the chains in flight, and at most tears the last line,
which the next start cuts off. A second start returns what is finished and runs the rest. Chains that a fault ended
(`StopReason.failed`) are run again, and have a second line then; the last line of a chain counts.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

from agentfly.agents.trajectory import Trajectory
from agentfly.errors import ConfigError
from agentfly.images import ImageStore

logger = logging.getLogger(__name__)

FILE_NAME = "trajectories.jsonl"
IMAGES = "images"


class Journal:
    """The log folder of a run; one run at a time writes to it.

    Args:
        folder: made when it is not there.

    Attributes:
        images: store of the pictures in the folder.
        finished: chains of earlier runs by id, without those that a fault ended.

    Raises:
        ConfigError: another run writes to the folder, or its file is damaged beyond the last line.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.images = ImageStore(self.folder / IMAGES)
        self.finished: dict[str, Trajectory] = {}
        self._fingerprints: dict[str, str] = {}
        self._lock = threading.Lock()
        self._path = self.folder / FILE_NAME
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._claim()
            self._read()
        except BaseException:
            self.close()
            raise

    def resume(self, chain: str, fingerprint: str) -> Trajectory | None:
        """The trajectory of a chain that is finished, else None.

        Raises:
            ConfigError: the folder has a chain of this id, but of another conversation.
        """
        known = self._fingerprints.setdefault(chain, fingerprint)
        if known != fingerprint:
            raise ConfigError(
                f"log_dir={str(self.folder)!r} has another conversation under the id {chain!r}; "
                "use another log_dir, or give the conversation another id"
            )
        return self.finished.get(chain)

    async def append(self, trajectory: Trajectory) -> None:
        """Write a finished chain; when this returns, it is on disk."""
        await asyncio.to_thread(self._append, trajectory)

    def close(self) -> None:
        """Let go of the folder. Safe to call twice."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _append(self, trajectory: Trajectory) -> None:
        fingerprint = json.dumps(self._fingerprints.get(trajectory.id, ""))
        line = f'{{"fingerprint": {fingerprint}, "trajectory": {trajectory.to_json()}}}\n'.encode()
        with self._lock:
            if self._file < 0:
                return
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)

    def _claim(self) -> None:
        try:
            # The lock goes with the process, however that ends.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            raise ConfigError(
                f"another run writes to log_dir={str(self.folder)!r}; wait for it, or use another"
            ) from fault

    def _read(self) -> None:
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            logger.warning("%s: the last line was torn; its chain is run again", self._path)
            os.ftruncate(self._file, whole)
        for number, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError) as fault:
                raise ConfigError(f"{self._path}, line {number} is damaged ({fault}); remove the line") from fault

    def _take(self, entry: dict[str, Any]) -> None:
        trajectory = Trajectory.from_dict(entry["trajectory"])
        self._fingerprints[trajectory.id] = entry["fingerprint"]
        if trajectory.stop_reason is None or trajectory.stop_reason.failed:
            self.finished.pop(trajectory.id, None)
        else:
            self.finished[trajectory.id] = trajectory
