"""The committed samples are what their scripts make."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from agentfly.datasets import check_rows, load_tasks, task_rows
from agentfly.datasets.photos import PHOTOS
from agentfly.images import handle_of, load_image
from tests.values import loaded

DATA = Path(__file__).resolve().parents[3] / "data"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DATA / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look themselves up there.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "count"), [("build_stickers_sample", 20), ("build_photos_sample", 14)])
def test_sample_equals_what_the_script_makes(name: str, count: int) -> None:
    module = script(name)
    rows, wanted = list(load_tasks(module.DEFAULT_PATH)), module.sample_tasks()
    assert len(rows) == len(wanted) == count
    for kept, task in zip(rows, wanted, strict=True):
        assert (kept.id, kept.instruction, kept.metadata) == (task.id, task.instruction, task.metadata)
        for a, b in zip((*kept.images, kept.target, kept.mask), (*task.images, task.target, task.mask), strict=True):
            assert handle_of(loaded(a)) == handle_of(load_image(b))


@pytest.mark.parametrize("name", ["stickers_sample", "photos_sample"])
def test_samples_are_sound(name: str) -> None:
    assert check_rows(task_rows(DATA / f"{name}.parquet")).ok


def test_photographs_change_only_where_the_mask_is_white() -> None:
    for task in load_tasks(DATA / "photos_sample.parquet"):
        differs = np.asarray(load_image(task.images[0])) != np.asarray(loaded(task.target))
        assert np.array_equal(np.asarray(loaded(task.mask)) == 255, differs.any(axis=2)), task.id


def test_samples_are_small_and_their_card_names_every_photograph() -> None:
    assert sum(path.stat().st_size for path in DATA.glob("*.parquet")) < 1400 * 1024
    card = (DATA / "README.md").read_text()
    for photo in (*PHOTOS["train"], *PHOTOS["heldout"], *script("build_photos_sample").MORE_PHOTOS):
        assert f"`{photo.file}` | {photo.subject} | {photo.maker} | {photo.licence}" in card
        assert photo.licence in ("CC0", "public domain")
