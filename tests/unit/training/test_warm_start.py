"""A warm start shows the task types in the shares that it was told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentfly.datasets import FAMILIES, EditTask
from agentfly.training import warm_start as room
from agentfly.training.warm_start import WarmStartConfig, is_warm_start, warm_start


class Enough(Exception):
    """The tasks are known; nothing need be played."""


def test_demonstrations_take_the_families_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown: list[str] = []

    async def play(tasks: Sequence[EditTask], *_: Any, **__: Any) -> None:
        shown.extend(str(task.task_type) for task in tasks)
        raise Enough

    monkeypatch.setattr(room, "play", play)
    config = WarmStartConfig(demonstrations=10, families={"two_step": 3, "look": 1})
    with pytest.raises(Enough):
        warm_start(config, tmp_path)
    assert shown == ["two_step", "two_step", "two_step", "look"] * 2 + ["two_step"] * 2
    assert set(WarmStartConfig().families) == set(FAMILIES)
    assert Counter(WarmStartConfig().families).most_common(1)[0][0] == "two_step"


def test_a_finished_warm_start_is_known_by_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = WarmStartConfig(demonstrations=1, looks=0)
    assert not is_warm_start(tmp_path, config)
    monkeypatch.setattr(room, "train", lambda *_, **__: None)
    assert is_warm_start(warm_start(config, tmp_path), config)
    assert not is_warm_start(tmp_path, config.model_copy(update={"seed": 1}))

    def stop(*_: Any, **__: Any) -> None:
        raise Enough

    monkeypatch.setattr(room, "train", stop)
    with pytest.raises(Enough):
        warm_start(config, tmp_path)
    assert not is_warm_start(tmp_path, config)
