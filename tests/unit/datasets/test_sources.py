"""One door to every data set: names, the sticker world behind it, limits."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import pytest

from agentfly.datasets import SOURCES, StickerWorld, load_tasks
from agentfly.datasets.public.tasks import stable_task_type
from agentfly.errors import ConfigError, MissingExtraError
from agentfly.images import handle_of
from tests.values import as_image


def test_stickers_are_those_of_the_world() -> None:
    tasks = list(load_tasks("stickers", split="heldout", limit=6, seed=3, side=96))
    world = StickerWorld(96)
    for index, task in enumerate(tasks):
        wanted = world.task(index, "heldout", seed=3)
        assert (task.id, task.instruction) == (wanted.id, wanted.instruction)
        assert handle_of(as_image(task.images[0])) == handle_of(as_image(wanted.images[0]))


@pytest.mark.parametrize(("data", "package"), [("gedit-bench", "datasets"), ("rows.parquet", "pyarrow")])
def test_data_that_needs_a_package_names_its_extra(
    data: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.parquet").write_bytes(b"PAR1")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(MissingExtraError, match=r"extra \[data\]"):
        next(load_tasks(data))


def test_families_take_turns_and_count_is_kept() -> None:
    tasks = list(load_tasks("stickers", side=96, families=("look", "named"), count=3))
    assert [task.task_type for task in tasks] == ["look", "named", "look"]
    assert len(list(load_tasks("stickers", side=96, count=9, limit=2))) == 2


def test_tasks_are_made_when_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = StickerWorld.task

    def task(self: StickerWorld, index: int, *args: Any, **options: Any) -> Any:
        made.append(index)
        return real(self, index, *args, **options)

    monkeypatch.setattr(StickerWorld, "task", task)
    list(itertools.islice(load_tasks("stickers", limit=1_000_000, side=96), 2))
    assert made == [0, 1]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("magicbrsh", {}, "Did you mean 'magicbrush'"),
        ("sticker", {}, "Did you mean 'stickers'"),
        ("stickers", {"split": "heldut"}, "Did you mean 'heldout'"),
        ("stickers", {"families": ["name"]}, "Did you mean 'named'"),
        ("stickers", {"families": []}, "Valid: cast, exposure, look"),
        ("stickers", {"sides": 96}, "Did you mean 'side'"),
        ("stickers", {"limit": -1}, "limit must be at least 0"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest(source: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_tasks(source, **options)


def test_sources_are_listed() -> None:
    assert {"stickers", "gedit-bench", "magicbrush", "imgedit", "risebench"} <= set(SOURCES)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("background_change", "background"),
        ("color_alter", "colour"),
        ("subject-add", "add"),
        ("Remove", "remove"),
        ("attribute_modification", "attribute"),
        ("6_change_attribute_color_40", "colour"),
        ("0_random_140", "random"),
        ("Object Arrangement", "object_arrangement"),
        ("", "edit"),
    ],
)
def test_task_types_are_one_vocabulary(theirs: str, ours: str) -> None:
    assert stable_task_type(theirs) == ours
