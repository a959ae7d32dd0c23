"""Limits catch what hangs, and let go on what is only slow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentfly.training.launch import watchdogs as room
from agentfly.training.launch.log_reader import SAMPLED, Phase
from agentfly.training.launch.watchdogs import Watchdogs
from agentfly.training.recipe.settings import DataSettings, Patience, TrainSettings

LIMIT = 10.0


class Clock:
    """Time that passes when it is told to, and the part that the trainer would name."""

    def __init__(self) -> None:
        self.now = 100.0
        self.part: str | None = None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(room, "part_in_progress", lambda folder: clock.part)
    return clock


@pytest.fixture
def dogs(clock: Clock, tmp_path: Path) -> Watchdogs:
    patience = Patience(ray=LIMIT, start=LIMIT, rollout=LIMIT, update=LIMIT)
    settings = TrainSettings(
        model="m",
        out=tmp_path,
        data=DataSettings(train="stickers"),
        limits={"wall_clock": 0.1},
        guard={"timeout": 0.1, "attempts": 1},
        patience=patience,
    )
    return Watchdogs(settings, steps=5, stacks=tmp_path)


def alarm_after(dogs: Watchdogs, clock: Clock, begun: dict[Phase, float], each_second: Callable[[int], None]) -> int:
    """Seconds until the alarm, asked every second; 50 when there is none."""
    for second in range(50):
        clock.now += 1
        each_second(second)
        if dogs.check_time(begun, 0) is not None:
            return second + 1
    return 50


def started(clock: Clock) -> dict[Phase, float]:
    return {"ray": clock.now, "workers": clock.now, "engine": clock.now, "training": clock.now}


def test_a_start_that_says_new_things_may_take_long(dogs: Watchdogs, clock: Clock) -> None:
    words = itertools.cycle(["loading"])
    begun: dict[Phase, float] = {"ray": clock.now, "workers": clock.now}
    letters = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert alarm_after(dogs, clock, begun, lambda _: dogs.hear(f"{next(words)} module {next(letters)}")) == 50


def test_a_line_that_repeats_with_other_numbers_is_no_progress(dogs: Watchdogs, clock: Clock) -> None:
    """Ray tells every few seconds that it waits for a resource that will never come."""
    begun: dict[Phase, float] = {"ray": clock.now, "workers": clock.now}
    said = alarm_after(dogs, clock, begun, lambda s: dogs.hear(f"(autoscaler +{s}s) no node can provide 1.0 GPU"))
    assert said == LIMIT + 2


def test_rollouts_go_on_while_chains_are_finished(dogs: Watchdogs, clock: Clock) -> None:
    assert alarm_after(dogs, clock, started(clock), lambda s: dogs.note_chains(100 * (s // 5 + 1))) == 50


def test_rollouts_without_a_finished_chain_hang(dogs: Watchdogs, clock: Clock) -> None:
    dogs.note_chains(500)
    assert alarm_after(dogs, clock, started(clock), lambda s: dogs.note_chains(500)) == LIMIT + 1


def parts(*durations: tuple[str, int]) -> Iterator[str]:
    for name, seconds in durations:
        yield from [name] * seconds


def test_each_part_of_an_update_has_the_limit_for_itself(dogs: Watchdogs, clock: Clock) -> None:
    dogs.hear(f"{SAMPLED} 1")
    told = parts(("log-probs", 8), ("update", 8), ("weight synchronisation", 99))

    def go_on(_: int) -> None:
        clock.part = next(told)

    # Two parts of 8 seconds, then the limit of the third, known to within a look.
    assert 8 + 8 + LIMIT <= alarm_after(dogs, clock, started(clock), go_on) <= 8 + 8 + LIMIT + 2


def test_the_alarm_names_the_part(dogs: Watchdogs, clock: Clock) -> None:
    dogs.hear(f"{SAMPLED} 1")
    clock.part, clock.now = "weight synchronisation", clock.now + 6
    assert dogs.check_time(started(clock), 0) is None
    clock.now += 6
    found = dogs.check_time(started(clock), 0)
    assert found is not None
    assert "weight synchronisation" in found.message
