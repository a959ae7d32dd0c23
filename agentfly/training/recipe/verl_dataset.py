"""The rows that verl reads: one small row per task that points into the file with the images.

verl passes every column of a row through its queue once per sample. So its file holds only a pointer (file and index),
and the agent loop reads images, target and mask from the task file, which is memory-mapped once per worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

from agentfly.datasets import EditTask, task_from_row
from agentfly.datasets.image_paths import ImageFolder
from agentfly.datasets.rows import ParquetRows, pack_bytes, pack_paths, task_features, task_to_row
from agentfly.errors import ConfigError, DatasetError, ImageError, shortened, unknown_name

IMAGES: tuple[str, ...] = ("bytes", "paths")


class TaskRow(TypedDict):
    """The pointer to a task, in the column `extra_info` of verl's file.

    Attributes:
        index: row of the task file, from 0.
        task_file: absolute path.
    """

    index: int
    task_file: str


def write_rows(tasks: Iterable[EditTask], folder: Path, name: str, *, images: str = "bytes") -> Path:
    """Write `NAME.tasks.parquet` and the file for verl, `NAME.parquet`, and return the path of the latter.

    Tasks are taken one by one, so that memory need not hold them all. Both files appear when they are whole.

    Args:
        tasks: any iterable.
        folder: folder of the files; made if need be.
        name: of the files.
        images: "bytes" keeps the images within the task file; "paths" writes them to `NAME.images/`, equal ones
            once, and keeps their paths relative to the task file.

    Raises:
        ConfigError: unknown `images`.
        DatasetError: there is no task, or one of them is broken; the message names it.
    """
    if images not in IMAGES:
        raise ConfigError(unknown_name("images", images, IMAGES))
    folder.mkdir(parents=True, exist_ok=True)
    task_file = (folder / f"{name}.tasks.parquet").resolve()
    pack = pack_bytes if images == "bytes" else pack_paths(task_file.parent / f"{name}.images", task_file.parent)
    path = folder / f"{name}.parquet"
    # The last to be opened is the first to appear: pointers never point to a file that is not there.
    with ParquetRows(path) as pointers, ParquetRows(task_file, task_features()) as whole:
        for index, task in enumerate(tasks):
            try:
                whole.add(task_to_row(task, pack))
            except ImageError as fault:
                raise DatasetError(f"row {index}, task {shortened(task.id)!r}: {fault}") from fault
            pointer = {
                "data_source": task.task_type,
                "prompt": [{"role": "user", "content": task.instruction}],
                "ability": "image_editing",
                "reward_model": {"style": "rule", "ground_truth": ""},
                "extra_info": TaskRow(index=index, task_file=str(task_file)),
            }
            pointers.add(pointer)
        if not whole.count:
            raise DatasetError(f"no task to write for {name}")
    return path


def read_task(row: TaskRow) -> EditTask:
    """Return the task that the `extra_info` of a row of verl's file points to."""
    return _task(row["task_file"], int(row["index"]))


# Each chain of a prompt asks for the same task, and to read a row takes as long as a tool call on a small image.
@lru_cache(maxsize=64)
def _task(task_file: str, index: int) -> EditTask:
    return task_from_row(_open(task_file)[index], ImageFolder(Path(task_file).parent))


@lru_cache(maxsize=16)
def _open(task_file: str) -> Sequence[Mapping[str, object]]:
    import datasets

    rows: Sequence[Mapping[str, object]] = datasets.Dataset.from_parquet(task_file)
    return rows
