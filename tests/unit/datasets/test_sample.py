"""The committed sample is what its script makes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import datasets

from agentfly.datasets import task_from_row
from agentfly.datasets.photos import PHOTOS
from agentfly.images import handle_of, load_image

DATA = Path(__file__).parents[3] / "data"


def test_sample_equals_what_the_script_makes(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("build_stickers_sample", DATA / "build_stickers_sample.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = datasets.Dataset.from_parquet(str(script.DEFAULT_PATH), cache_dir=str(tmp_path))
    wanted = script.sample_tasks()
    assert len(rows) == len(wanted) == 20
    for row, task in zip(rows, wanted, strict=True):
        kept = task_from_row(row)
        assert (kept.id, kept.instruction, kept.metadata) == (task.id, task.instruction, task.metadata)
        for a, b in zip((*kept.images, kept.target, kept.mask), (*task.images, task.target, task.mask), strict=True):
            assert handle_of(load_image(a)) == handle_of(load_image(b))


def test_sample_is_small_and_its_card_names_every_photograph() -> None:
    assert (DATA / "stickers_sample.parquet").stat().st_size < 700 * 1024
    card = (DATA / "README.md").read_text()
    for photos in PHOTOS.values():
        for photo in photos:
            assert f"`{photo.file}` | {photo.subject} | {photo.maker} | {photo.licence}" in card
