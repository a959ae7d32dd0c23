"""A warm start has its task types in the shares of its settings, is known by its settings, and can be resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentfly.datasets import FAMILIES, EditTask
from agentfly.training.quickstart import warm_start as room
from agentfly.training.quickstart.supervised import SFTConfig
from agentfly.training.quickstart.warm_start import WarmStartConfig, is_begun, is_warm_start, warm_start

SMALL = WarmStartConfig(demonstrations=2, looks=1, sft=SFTConfig(steps=2, batch_size=2, micro_batch=1))


class Enough(Exception):
    """Raised to stop a warm start before its heavy parts."""


def stop(*_: Any, **__: Any) -> None:
    raise Enough


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


def test_batches_of_demonstrations_are_one_sequence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The size of a batch does not change the demonstrations."""
    played: dict[int, list[str]] = {}
    for together in (2, 3):
        monkeypatch.setattr(room, "PLAYED_TOGETHER", together)
        texts = played[together] = []

        def keep(shown: Sequence[Any], texts: list[str] = texts) -> None:
            texts.extend(turn.text for trajectory in shown for turn in trajectory.turns)
            raise Enough

        monkeypatch.setattr(room, "_corpus", keep)
        with pytest.raises(Enough):
            warm_start(WarmStartConfig(demonstrations=5, looks=0), tmp_path / str(together))
    assert played[2] == played[3]
    assert len(played[2]) >= 5


def test_a_finished_warm_start_is_known_by_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not is_warm_start(tmp_path, SMALL)
    events: list[tuple[str, int, int]] = []
    assert is_warm_start(warm_start(SMALL, tmp_path, lambda *event: events.append(event)), SMALL)
    assert events == [("demonstrations", 2, 2), ("looks", 1, 1), ("supervised", 1, 2), ("supervised", 2, 2)]
    assert not is_warm_start(tmp_path, SMALL.model_copy(update={"seed": 1}))
    assert not (tmp_path / room.UNFINISHED).exists()
    monkeypatch.setattr(room, "train", stop)
    with pytest.raises(Enough):
        warm_start(SMALL, tmp_path)
    assert not is_warm_start(tmp_path, SMALL)


def test_a_warm_start_that_was_stopped_plays_nothing_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(room, "train", stop)
        with pytest.raises(Enough):
            warm_start(SMALL, tmp_path)
    assert is_begun(tmp_path, SMALL)
    assert not is_begun(tmp_path, SMALL.model_copy(update={"seed": 1}))
    monkeypatch.setattr(room, "play", stop)
    assert is_warm_start(warm_start(SMALL, tmp_path), SMALL)
