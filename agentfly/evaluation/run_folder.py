"""The folder of a run on disk: settings, one line for each finished task, and images. It survives `kill -9`.

A line is written in one append and synced, after its images. So a process that is killed at any moment loses only the
tasks in progress; at most the last line is incomplete, and the next start removes it. Only one process at a time
writes to a folder.

A start that finishes no task leaves no trace, and one whose every task failed binds no other start to its settings.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentfly.agents.trajectory_file import FILE_NAME, IMAGE_FOLDERS, IMAGES, read_trajectories
from agentfly.errors import ConfigError, first_line
from agentfly.evaluation.task_record import TaskRecord
from agentfly.files import LineFile, write_text
from agentfly.images import ImageStore
from agentfly.provenance import FILE_NAME as ENVIRONMENT
from agentfly.provenance import record_environment

logger = logging.getLogger(__name__)

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
        self._made = [path for path in (folder / IMAGES, folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = LineFile(folder / FILE_NAME, repr(str(folder)))
        self.finished: dict[str, TaskRecord] = {}
        try:
            self.finished = self._read(json.loads(json.dumps(identity)))
            record_environment(folder)
            self.images = ImageStore(folder / IMAGES)
            for older in (folder / name for name in IMAGE_FOLDERS if name != IMAGES):
                if older.is_dir():
                    self.images.look_in(ImageStore(older))
        except BaseException:
            self.close()
            raise

    async def append(self, record: TaskRecord) -> None:
        """Write a finished task; when this returns, it and its images are on disk."""
        self.finished[record.id] = record

        def write() -> None:
            self.images.sync()
            self._lines.append(record.to_json())

        await asyncio.to_thread(write)

    def close(self) -> None:
        """Let go of the folder, and remove it if this start made it and nothing is in it. Safe to call twice."""
        made, self._made = self._made, []
        if self.folder / IMAGES in made and not self.finished:
            # Images of tasks in progress stay: the next start needs them.
            with suppress(OSError):
                if (self.folder / IMAGES).exists():
                    (self.folder / IMAGES).rmdir()
                for name in (SETTINGS, ENVIRONMENT):
                    (self.folder / name).unlink(missing_ok=True)
                self._lines.discard()
                for path in made[1:]:
                    path.rmdir()
        self._lines.close()

    def _read(self, identity: Mapping[str, Any]) -> dict[str, TaskRecord]:
        """Return the records of earlier starts by task id, and write the settings where none are known."""
        path = self.folder / SETTINGS
        if self._lines.path.stat().st_size:
            if not path.is_file():
                raise ConfigError(f"{str(self.folder)!r} holds something else than an evaluation: use another folder")
            other = _differences(path, identity)
            self._lines.repair()
            finished = {record.id: record for record in read_records(self._lines.path)}
            if not other:
                return finished
            if not all(record.failed for record in finished.values()):
                raise ConfigError(
                    f"{str(self.folder)!r} was begun with other settings ({', '.join(other)}; see {SETTINGS} there): "
                    "use another --out, or the same settings"
                )
            aside = self.folder / f"{Path(FILE_NAME).stem}.failed.jsonl"
            logger.warning("every task of an earlier start with other settings had failed: moved to %s", aside)
            self._lines.clear(aside)
        write_text(path, json.dumps(identity, indent=2, ensure_ascii=False) + "\n")
        return {}


def _differences(path: Path, identity: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings that differ from those in a file."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return sorted(name for name in known.keys() | identity.keys() if known.get(name) != identity.get(name))
    except (ValueError, AttributeError, RecursionError) as fault:
        raise ConfigError(f"{str(path)!r} is damaged ({first_line(fault)}): use another --out") from fault


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
