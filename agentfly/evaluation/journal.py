"""The folder of a run on disk: settings, one line a finished task, pictures. It survives `kill -9`.

A line is written in one append and synced, after its pictures. A process that is killed at any moment loses the tasks
in flight, and at most tears the last line, which the next start cuts off. One process at a time writes to a folder.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agentfly.errors import ConfigError
from agentfly.evaluation.records import TaskRecord
from agentfly.images import ImageStore

logger = logging.getLogger(__name__)

FILE_NAME = "trajectories.jsonl"
SETTINGS = "settings.json"
IMAGES = "images"


class RunFolder:
    """An evaluation's folder, opened for writing.

    Args:
        folder: made when it is not there.
        identity: what must be the same for results to belong together, JSON-able; a value may be a secret only if it
            may be written to the folder.

    Attributes:
        images: the pictures of the run.
        finished: records by task id; the last line of a task counts.

    Raises:
        ConfigError: another process writes to the folder, it was begun with other settings, or its file is damaged.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE_NAME
        self._lock = threading.Lock()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._claim()
            self._check(json.loads(json.dumps(identity)))
            self._mend()
            self.finished = {record.id: record for record in read_records(self._path)}
        except BaseException:
            self.close()
            raise
        self.images = ImageStore(folder / IMAGES)

    async def append(self, record: TaskRecord) -> None:
        """Write a finished task; when this returns, it is on disk."""
        self.finished[record.id] = record
        await asyncio.to_thread(self._append, record)

    def close(self) -> None:
        """Let go of the folder. Safe to call twice."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _append(self, record: TaskRecord) -> None:
        # A sampled text can hold half a surrogate pair, which UTF-8 cannot carry.
        line = f"{record.to_json()}\n".encode("utf-8", "replace")
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
            raise ConfigError(f"another process writes to {str(self.folder)!r}: wait for it, or use another") from fault

    def _check(self, identity: Mapping[str, Any]) -> None:
        path = self.folder / SETTINGS
        if not path.is_file():
            if self._path.stat().st_size:
                raise ConfigError(f"{str(self.folder)!r} holds something else than an evaluation: use another folder")
            write_text(path, json.dumps(identity, indent=2, ensure_ascii=False) + "\n")
            return
        known = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(name for name in known.keys() | identity.keys() if known.get(name) != identity.get(name))
        if other:
            raise ConfigError(
                f"{str(self.folder)!r} was begun with other settings ({', '.join(other)}; see {SETTINGS} there): "
                "use another --out, or the same settings"
            )

    def _mend(self) -> None:
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            logger.warning("%s: the last line was torn; its task is run again", self._path)
            os.ftruncate(self._file, whole)


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Numbers and parsed values of the lines of a JSONL file; a last line without its end is left out.

    Raises:
        ConfigError: a line is not JSON.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield number, json.loads(line)
            except ValueError as fault:
                raise ConfigError(f"{path}, line {number} is damaged ({fault}): remove the line") from fault


def read_records(path: Path) -> Iterator[TaskRecord]:
    """Records of a run's `trajectories.jsonl`, in the order they were written.

    Raises:
        ConfigError: a line is no record.
    """
    for number, data in read_lines(path):
        try:
            yield TaskRecord.from_dict(data)
        except (KeyError, TypeError, ValueError) as fault:
            raise ConfigError(
                f"{path}, line {number} is no record of `agentfly eval` ({type(fault).__name__}: {fault})"
            ) from fault


def write_text(path: Path, text: str) -> Path:
    """Write a file so that nobody ever sees half of it; returns its path."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_text(text, encoding="utf-8", errors="replace")
    partial.replace(path)
    return path
