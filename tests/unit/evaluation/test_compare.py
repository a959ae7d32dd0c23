"""Comparing runs: the test against known values, pairs that are pairs, and what is left out is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfly.agents.trajectory_file import FILE_NAME
from agentfly.errors import ConfigError
from agentfly.evaluation import TaskRecord, compare_runs, comparison_page, permutation_p, write_comparison
from tests.unit.evaluation.agents import record


def test_a_constant_gain_on_n_tasks_has_the_smallest_p_there_is() -> None:
    assert permutation_p([3.0] * 10) == pytest.approx(2 / 2**10)
    assert permutation_p([0.0] * 10) == 1.0
    assert permutation_p([1.0, -1.0]) == 1.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=9))
def test_the_exact_p_is_the_share_of_sign_patterns(differences: list[int]) -> None:
    seen = abs(sum(differences))
    patterns = list(product((1, -1), repeat=len(differences)))
    share = sum(abs(np.dot(signs, differences)) >= seen for signs in patterns) / len(patterns)
    assert permutation_p(differences) == pytest.approx(share)


def test_the_random_p_is_near_the_exact_one_and_repeats() -> None:
    # The test of a mean of many differences is close to a t-test.
    differences = np.random.default_rng(0).normal(0.35, 1.0, 40)
    p = permutation_p(list(differences))
    assert p == permutation_p(list(differences))
    t = differences.mean() / (differences.std(ddof=1) / np.sqrt(40))
    from math import erfc, sqrt

    assert p == pytest.approx(erfc(abs(t) / sqrt(2)), abs=0.02)


def written(folder: Path, values: Mapping[str, float | None], label: str = "judge") -> Path:
    return put(folder, *(record(id_, value, label=label, task_type=id_[0]) for id_, value in values.items()))


def put(folder: Path, *records: TaskRecord) -> Path:
    folder.mkdir()
    (folder / FILE_NAME).write_text("".join(f"{one.to_json()}\n" for one in records))
    return folder


def test_pairs_are_matched_by_id_and_what_is_not_compared_is_said(tmp_path: Path) -> None:
    a = written(tmp_path / "a", {"x1": 10.0, "x2": 20.0, "y1": 30.0, "y2": None, "only_a": 1.0})
    b = written(tmp_path / "b", {"y1": 30.01, "x2": 25.0, "x1": 90.0, "y2": 7.0, "only_b": 1.0})
    found = compare_runs(a, b)
    everything = found["evaluators"]["judge"]["all"]
    assert everything["tasks"] == 3
    assert everything["difference"] is not None
    assert everything["difference"]["mean"] == pytest.approx((80 + 5 + 0.01) / 3, abs=0.001)
    assert (everything["win"], everything["tie"], everything["loss"]) == (2, 1, 0)
    assert everything["not_scored"] == {"a": 1, "b": 0}
    assert found["evaluators"]["judge"]["by_type"]["y"]["tasks"] == 1
    assert found["unmatched"] == {"only_a": ["only_a"], "only_b": ["only_b"], "different": []}
    page = comparison_page(found)
    assert "1 tasks that only A has: only_a" in page
    assert "| x | 2 | 15.0" in page
    write_comparison(found, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == found


def test_tasks_that_are_not_the_same_are_not_compared(tmp_path: Path) -> None:
    same, other = record("t1", 5.0), record("t2", 5.0)
    a = put(tmp_path / "a", same, other)
    b = put(tmp_path / "b", same, replace(other, task=replace(other.task, instruction="something else")))
    found = compare_runs(a, b)
    assert found["unmatched"]["different"] == ["t2"]
    assert found["tasks"] == 1


def test_runs_that_cannot_be_compared_say_why(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a", {"t": 1.0}), written(tmp_path / "b", {"u": 1.0})
    with pytest.raises(ConfigError, match="share no task"):
        compare_runs(a, b)
    with pytest.raises(ConfigError, match="share no evaluator"):
        compare_runs(a, written(tmp_path / "c", {"t": 1.0}, label="reference"))
    with pytest.raises(ConfigError, match="Did you mean 'judge'"):
        compare_runs(a, a, ["jugde"])
    with pytest.raises(ConfigError, match="there is no run in"):
        compare_runs(a, tmp_path / "nowhere")
