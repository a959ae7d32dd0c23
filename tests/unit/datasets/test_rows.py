"""Rows of a data set give back the task that went in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.datasets import EditTask, StickerWorld, task_from_row, tasks_to_dataset
from agentfly.errors import DatasetError
from agentfly.images import handle_of
from agentfly.training.recipe.verl_dataset import write_rows
from tests.values import loaded


@pytest.fixture(scope="module")
def tasks() -> list[EditTask]:
    return [StickerWorld(96).task(index, "train") for index in range(5)]


def _same(one: EditTask, two: EditTask) -> None:
    for name in ("id", "instruction", "task_type", "metadata"):
        assert getattr(one, name) == getattr(two, name)
    for a, b in zip((*one.images, one.target, one.mask), (*two.images, two.target, two.mask), strict=True):
        assert handle_of(loaded(a)) == handle_of(loaded(b))


def test_round_trip_through_parquet_is_lossless(tasks: list[EditTask], tmp_path: Path) -> None:
    import datasets

    path = tmp_path / "tasks.parquet"
    tasks_to_dataset(tasks).to_parquet(str(path))
    rows = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path))
    for row, task in zip(rows, tasks, strict=True):
        back = task_from_row(row)
        _same(back, task)
        assert isinstance(back.target, bytes)


def test_decoded_rows_are_read_too(tasks: list[EditTask]) -> None:
    import datasets

    rows = tasks_to_dataset(tasks[:1]).cast_column("target", datasets.Image())
    _same(task_from_row(rows[0]), tasks[0])


def test_missing_target_and_mask_stay_missing() -> None:
    task = EditTask("a", "Do it.", StickerWorld(96).task(0, "train").images)
    back = task_from_row(tasks_to_dataset([task])[0])
    assert back.target is None
    assert back.mask is None


def test_rows_hold_masks_in_our_form_and_no_photograph_as_one(tmp_path: Path) -> None:
    (image,) = StickerWorld(96).task(0, "train").images
    marked = Image.new("L", (96, 96))
    marked.paste(1, (10, 20, 30, 40))
    (row,) = tasks_to_dataset([EditTask("a", "Do it.", (image,), mask=marked)])
    assert loaded(task_from_row(row).mask).tobytes() == marked.point(lambda value: 255 * value).tobytes()
    with pytest.raises(DatasetError, match="row 1, task 'b': this is a colour image, not a mask"):
        write_rows([EditTask("a", "Do it.", (image,)), EditTask("b", "Do it.", (image,), mask=image)], tmp_path, "x")
    assert not list(tmp_path.glob("*.parquet"))


@pytest.mark.parametrize("packed", [{"bytes": b"", "path": "a.png"}, {"bytes": None, "path": "a.png"}])
def test_an_image_without_bytes_is_read_from_its_path(packed: dict[str, object]) -> None:
    (image,) = StickerWorld(96).task(0, "train").images
    row = dict(tasks_to_dataset([EditTask("a", "Do it.", (image,))])[0], images=[packed])
    assert task_from_row(row).images == ("a.png",)


def test_a_row_that_is_not_ours_is_refused() -> None:
    with pytest.raises(DatasetError, match="instruction, images"):
        task_from_row({"id": "a"})


@pytest.mark.parametrize("broken", ["{", "9" * 5000, "[" * 300_000])
def test_broken_metadata_is_refused(broken: str, tasks: list[EditTask]) -> None:
    row = dict(tasks_to_dataset(tasks[:1])[0], metadata=broken)
    with pytest.raises(DatasetError, match="metadata of task 'train-named-0-0'"):
        task_from_row(row)


@pytest.mark.parametrize("change", [{"instruction": "a \ud83d"}, {"id": "\udcfc"}, {"metadata": {"x": "\ud83d"}}])
def test_a_text_that_no_file_can_hold_is_refused_by_the_name_of_its_task(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    (image,) = StickerWorld(96).task(0, "train").images
    task = replace(EditTask("a", "Do it.", (image,)), **change)
    with pytest.raises(DatasetError, match=r"^task '(a|\\udcfc)' holds half of a surrogate pair"):
        write_rows([task], tmp_path, "x")
