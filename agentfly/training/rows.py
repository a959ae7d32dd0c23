"""What verl reads: one small row a task that points into the file with the pictures.

verl passes every column of a row through its queue once a sample. So its file holds only a pointer (file and index),
and the agent loop reads pictures, target and mask from the task file, which is memory-mapped once a worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from agentfly.datasets import EditTask, task_from_row, tasks_to_dataset
from agentfly.errors import DatasetError


def write_rows(tasks: Sequence[EditTask], folder: Path, name: str) -> Path:
    """Write `NAME.tasks.parquet` and the file for verl, `NAME.parquet`; returns the latter."""
    import datasets

    if not tasks:
        raise DatasetError(f"no task to write for {name}")
    folder.mkdir(parents=True, exist_ok=True)
    task_file = (folder / f"{name}.tasks.parquet").resolve()
    tasks_to_dataset(tasks).to_parquet(str(task_file))
    rows = [
        {
            "data_source": task.task_type,
            "prompt": [{"role": "user", "content": task.instruction}],
            "ability": "image_editing",
            "reward_model": {"style": "rule", "ground_truth": ""},
            "extra_info": {"index": index, "task_file": str(task_file)},
        }
        for index, task in enumerate(tasks)
    ]
    path = folder / f"{name}.parquet"
    datasets.Dataset.from_list(rows).to_parquet(str(path))
    return path


def read_task(extra_info: Mapping[str, Any]) -> EditTask:
    """The task that a row of verl's file points to."""
    rows = _open(extra_info["task_file"])
    return task_from_row(rows[int(extra_info["index"])])


@lru_cache(maxsize=16)
def _open(task_file: str) -> Any:
    import datasets

    return datasets.Dataset.from_parquet(task_file)
