"""verl's rows are pointers: small, and they lead back to the very task."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfly.datasets import StickerWorld
from agentfly.errors import DatasetError
from agentfly.images import load_image
from agentfly.training.rows import read_task, write_rows


def test_a_row_leads_back_to_its_task(tmp_path: Path) -> None:
    import datasets

    world = StickerWorld()
    tasks = [world.task(index, "train") for index in range(3)]
    rows = datasets.Dataset.from_parquet(str(write_rows(tasks, tmp_path, "train")))
    assert rows[1]["prompt"] == [{"role": "user", "content": tasks[1].instruction}]
    task = read_task(rows[1]["extra_info"])
    assert (task.id, task.metadata) == (tasks[1].id, tasks[1].metadata)
    assert load_image(task.images[0]).tobytes() == load_image(tasks[1].images[0]).tobytes()
    assert (tmp_path / "train.parquet").stat().st_size < 20_000


def test_no_tasks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no task"):
        write_rows([], tmp_path, "train")
