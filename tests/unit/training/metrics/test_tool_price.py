"""Tool seconds are counted with those that were spent for nothing, and set against what was gained."""

from __future__ import annotations

import pytest

from agentfly.training.metrics.chain_report import Interval
from agentfly.training.metrics.tool_price import ToolPrice, spent_metrics, tool_price


def test_generations_are_no_tools() -> None:
    trained = [Interval("", 0.0, 9.0), Interval("edit", 9.0, 11.0), Interval("zoom", 11.0, 11.5)]
    assert spent_metrics(trained, [Interval("edit", 1.0, 4.0), Interval("", 4.0, 5.0)]) == {
        "tools/total_seconds": 2.5,
        "tools/total_discarded_seconds": 3.0,
        "tools/total_calls": 3.0,
    }


def validated(**rewards: float) -> dict[str, float]:
    return {f"val-core/{kind}/reward/mean@1": value for kind, value in rewards.items()}


STEP = {"tools/total_seconds": 30.0, "tools/total_discarded_seconds": 10.0, "val-aux/named/reward/best@2": 1.0}


def test_a_run_is_priced_from_its_first_validation_to_its_last() -> None:
    steps = [validated(a=0.1, b=0.3), STEP, {**STEP, **validated(a=0.3, b=0.3)}, STEP | validated(a=0.5, b=0.5), STEP]
    found = tool_price(steps)
    assert found is not None
    assert (found.seconds, found.discarded, found.points) == pytest.approx((120, 30, 30))
    assert found.in_words() == "tools ran 120 s, 30 s of it discarded; held-out reward +30.0 points: 4.0 s a point"
    # What was spent before the first validation bought nothing that was measured.
    late = tool_price([STEP, STEP | validated(a=0.2), STEP | validated(a=0.4)])
    assert late is not None
    assert late.seconds == 40


def test_there_is_no_price_of_what_was_not_measured_or_not_gained() -> None:
    assert tool_price([STEP, STEP | validated(a=0.2)]) is None
    assert tool_price([]) is None
    assert ToolPrice(60.0, 0.0, -2.0).in_words() == "tools ran 60 s; held-out reward -2.0 points"
