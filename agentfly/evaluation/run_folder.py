"""The folder of a run on disk: settings, one line for each finished task, and images. It survives `kill -9`.

A line is written in one append and synced, after its images. So a process that is killed at any moment loses only the
tasks in progress; at most the last line is incomplete, and the next start removes it. Only one process at a time
writes to a folder.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agentfly.agents.trajectory_file import FILE_NAME, IMAGES, read_trajectories
from agentfly.errors import ConfigError
from agentfly.evaluation.task_record import TaskRecord
from agentfly.files import LineFile, write_text
from agentfly.images import ImageStore

SETTINGS = "settings.json"


class RunFolder:
    """An evaluation's folder, opened for writing.

    Args:
        folder: made when it is not there.
        identity: what must be the same for results to belong together, JSON-able; a value may be a secret only if it
            may be written to the folder.

    Attributes:
        images: the images of the run.
        finished: records by task id; the last line of a task counts.

    Raises:
        ConfigError: another process writes to the folder, it was begun with other settings, or its file is damaged.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = LineFile(folder / FILE_NAME, repr(str(folder)))
        try:
            self._check(json.loads(json.dumps(identity)))
            self._lines.repair()
            self.finished = {record.id: record for record in read_records(self._lines.path)}
        except BaseException:
            self.close()
            raise
        self.images = ImageStore(folder / IMAGES)

    async def append(self, record: TaskRecord) -> None:
        """Write a finished task; when this returns, it is on disk."""
        self.finished[record.id] = record
        await asyncio.to_thread(lambda: self._lines.append(record.to_json()))

    def close(self) -> None:
        """Let go of the folder. Safe to call twice."""
        self._lines.close()

    def _check(self, identity: Mapping[str, Any]) -> None:
        path = self.folder / SETTINGS
        if not self._lines.path.stat().st_size:
            # Nothing is finished: a start that was refused must not bind the next one to its settings.
            write_text(path, json.dumps(identity, indent=2, ensure_ascii=False) + "\n")
            return
        if not path.is_file():
            raise ConfigError(f"{str(self.folder)!r} holds something else than an evaluation: use another folder")
        known = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(name for name in known.keys() | identity.keys() if known.get(name) != identity.get(name))
        if other:
            raise ConfigError(
                f"{str(self.folder)!r} was begun with other settings ({', '.join(other)}; see {SETTINGS} there): "
                "use another --out, or the same settings"
            )


def read_records(path: Path) -> Iterator[TaskRecord]:
    """Yield the records of a run's `trajectories.jsonl`, in the order they were written.

    Raises:
        ConfigError: a line is no record.
    """
    for number, line in read_trajectories(path):
        try:
            yield TaskRecord.of(line)
        except ConfigError as fault:
            raise ConfigError(f"{path}, line {number} is no record of `agentfly eval`: {fault}") from fault
