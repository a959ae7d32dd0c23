"""The benchmark of refill and curriculum: its arms choose groups as training does, and its price is what was paid."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.scripts import load_script


@pytest.fixture(scope="module")
def sampling() -> ModuleType:
    """The script as a module."""
    return load_script("benchmarks/sampling.py")


def tasks(sampling: ModuleType, truth: np.ndarray) -> list[object]:
    """Two tasks of each type whose ways have these scores, by one call each."""
    ones, image = np.ones(len(sampling.WAYS)), np.arange(len(sampling.WAYS))
    return [sampling.Outcomes(family, truth, 0 * ones, image, ones) for family in sampling.FAMILIES * 2]


def run(sampling: ModuleType, truth: np.ndarray, arm: str, steps: int = 1) -> Any:
    made = tasks(sampling, truth)
    return sampling.Learner(made, made, sampling.ARMS[arm], 0).run(lambda progress: len(progress.calls) > steps)


def test_groups_without_variance_are_replaced_until_the_limit(sampling: ModuleType) -> None:
    alike = np.full(len(sampling.WAYS), 100.0)
    assert run(sampling, alike, "plain").calls == [0, 64]
    # Three batches, as in training.
    one = run(sampling, alike, "refill")
    assert (one.replaced, one.discarded, one.calls) == (24, 24, [0, 256])


def test_two_for_one_leaves_groups_over_whose_calls_are_paid_too(sampling: ModuleType) -> None:
    truth = np.zeros(len(sampling.WAYS))
    truth[sampling.WAYS.index("right")] = 100.0
    found = run(sampling, truth, "refill, two for one", steps=10)
    assert found.discarded > found.replaced > 0
    assert found.calls[-1] == 8 * (10 * 8 + found.discarded)


def test_every_group_that_is_trained_on_can_teach(sampling: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # One way of ten is right, and few groups of the hard types have it.
    truth, learned = np.zeros(len(sampling.WAYS)), []
    truth[sampling.WAYS.index("right")] = 100.0
    monkeypatch.setattr(sampling.Learner, "_learn", lambda self, groups: learned.extend(groups))
    assert run(sampling, truth, "both").replaced > 0
    assert [group.flat for group in learned] == [False] * 8


def test_all_arms_are_told_with_their_price(sampling: ModuleType) -> None:
    truth = np.zeros(len(sampling.WAYS))
    truth[sampling.WAYS.index("right")] = 100.0
    made = tasks(sampling, truth)
    runs = [sampling.measure(made, made, 5, seed, 2.0) for seed in (0, 1)]
    plain = runs[0]["plain"]
    assert (plain.seconds, plain.replaced) == (2.0 * 64 * 5, 0)
    assert plain.price == pytest.approx(plain.seconds / (plain.after - plain.before))
    assert plain.at_equal_seconds == plain.after
    assert all(run[arm].after > run[arm].before for run in runs for arm in sampling.ARMS)
    lines = sampling.table(runs).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == list(sampling.ARMS)


def test_the_command_runs_real_chains(
    sampling: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "sampling.json"
    small = ["--tasks", "5", "--steps", "1", "--seeds", "0,1", "--json", str(file)]
    monkeypatch.setattr("sys.argv", ["sampling.py", *small])
    sampling.main()
    assert "| refill, two for one |" in capsys.readouterr().out
    assert [set(run) for run in json.loads(file.read_text())] == [set(sampling.ARMS)] * 2
