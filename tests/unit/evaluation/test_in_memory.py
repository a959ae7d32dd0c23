"""Evaluations: intervals that cover, paired differences, counts of what was chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agentfly.agents import StopReason, ToolRecord, Trajectory, Turn
from agentfly.evaluation.in_memory import Evaluation, choices, paired_difference
from agentfly.evaluators.bootstrap import estimate


def evaluation(*scores: float) -> Evaluation:
    record = ToolRecord("auto_inpaint_image", {"box_threshold": 0.5, "auto_mask_dilate": 4}, 0.1)
    made = [
        Trajectory(f"t{i}", "g", [], [Turn("", "stop", 0.1, (record,))], stop_reason=StopReason.ANSWERED, score=score)
        for i, score in enumerate(scores)
    ]
    return Evaluation(tuple(made), tuple("named" if i % 2 else "look" for i in range(len(made))))


def test_the_interval_shrinks_with_more_values() -> None:
    rng = np.random.default_rng(1)
    few, many = estimate(rng.normal(50, 10, 20)), estimate(rng.normal(50, 10, 2000))
    assert few.low < few.mean < few.high
    assert many.high - many.low < (few.high - few.low) / 4
    assert math.isnan(estimate([]).mean)
    assert estimate([9.0, 1.0, 4.0, 2.0]) == estimate([1.0, 2.0, 4.0, 9.0])


def test_a_paired_difference_sees_what_two_intervals_hide() -> None:
    before, after = evaluation(0, 20, 40, 60, 80), evaluation(3, 23, 43, 63, 83)
    gain = paired_difference(before, after)
    assert gain.low == pytest.approx(3.0)
    assert estimate(after.scores()).low < estimate(before.scores()).high


def test_the_summary_counts_success_and_choices_by_family() -> None:
    summary = evaluation(90, 10, 85, 95).summary()
    assert summary["success"]["all"]["mean"] == 0.75
    assert summary["success"]["look"]["mean"] == 1.0
    assert summary["tasks_by_family"] == {"look": 2, "named": 2}
    assert summary["stop_reasons"] == {"answered": 4}
    assert summary["choices"]["auto_mask_dilate"] == {"4": 4}


def test_calls_that_only_look_are_counted_apart() -> None:
    turn = Turn("", "stop", 0.1, (ToolRecord("zoom", {}, 0.1, looks=True), ToolRecord("edit", {}, 0.1)))
    summary = Evaluation((Trajectory("t", "g", [], [turn], score=1.0),), ("named",)).summary()
    assert (summary["tool_calls_per_task"], summary["look_calls_per_task"]) == (2.0, 1.0)


def test_malformed_calls_are_counted_as_such() -> None:
    turn = Turn("", "stop", 0.1, (ToolRecord("", {}, 0.0, malformed=True, error="x"),))
    assert choices([Trajectory("t", "g", [], [turn])])["tool"] == {"malformed": 1}
