"""verl's rows are pointers: small, and they lead back to the very task."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentfly.datasets import EditTask, StickerWorld
from agentfly.errors import ConfigError, DatasetError
from agentfly.images import load_image
from agentfly.training.recipe.verl_dataset import read_task, write_rows
from tests.values import loaded


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


def test_images_beside_the_file_are_read_back_and_equal_ones_are_one(tmp_path: Path) -> None:
    import datasets

    task = StickerWorld(96).task(0, "train")
    path = write_rows([task, replace(task, id="again")], tmp_path, "train", images="paths")
    assert len(list((tmp_path / "train.images").iterdir())) == 3
    back = read_task(datasets.Dataset.from_parquet(str(path))[1]["extra_info"])
    assert back.id == "again"
    for one, two in zip((*back.images, back.target, back.mask), (*task.images, task.target, task.mask), strict=True):
        assert loaded(one).tobytes() == loaded(two).tobytes()


def test_tasks_are_taken_one_by_one(tmp_path: Path) -> None:
    """More tasks than memory holds: when the next one is made, only a few are still kept."""
    world = StickerWorld(96)
    alive: list[weakref.ref[EditTask]] = []

    def tasks() -> Iterator[EditTask]:
        for index in range(8):
            task = world.task(index, "train")
            alive.append(weakref.ref(task))
            yield task
            del task
            assert sum(reference() is not None for reference in alive) <= 1

    write_rows(tasks(), tmp_path, "train")
    assert len(alive) == 8


def test_a_broken_task_leaves_no_file(tmp_path: Path) -> None:
    task = StickerWorld(96).task(0, "train")
    with pytest.raises(DatasetError, match="row 1, task 'train-named-0-0'"):
        write_rows([task, replace(task, images=(b"?",))], tmp_path, "train")
    assert list(tmp_path.iterdir()) == []


def test_unknown_form_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'paths'"):
        write_rows([], tmp_path, "train", images="path")
