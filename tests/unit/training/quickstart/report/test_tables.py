"""Figures of a summary arranged for reading."""

from __future__ import annotations

from typing import Any

import pytest

from agentfly.training.quickstart.report import tables
from tests.unit.training.quickstart.report.made_up import summary


def _gain(mean: float, low: float, high: float) -> dict[str, Any]:
    return {**summary(), "gain": {"greedy": {"all": {"mean": mean, "low": low, "high": high}}}}


@pytest.mark.parametrize(
    ("gain", "verb"),
    [((20, 14, 26), "raised"), ((-20, -26, -14), "lowered"), ((2, -3, 7), "did not clearly change")],
)
def test_headline_claims_only_what_the_interval_allows(gain: tuple[float, float, float], verb: str) -> None:
    text = tables.headline(_gain(*gain))
    assert text.startswith(f"GRPO {verb} the greedy score")
    assert "in 14.2 minutes" in text
    assert f"95 % interval {gain[1]:+.1f} to {gain[2]:+.1f}" in text


def test_headline_takes_the_mode_that_was_compared() -> None:
    content = summary()
    del content["gain"]["greedy"]
    assert "the sampled score" in tables.headline(content)


def test_shares_are_of_each_policy_and_numbers_are_in_order() -> None:
    content = {
        "warm_start": {"greedy": {"choices": {"box_threshold": {"0.5": 1, "0.35": 3}}}},
        "trained": {"greedy": {"choices": {"box_threshold": {"0.1": 2, "0.5": 2}}}},
    }
    (table,) = tables.choice_tables(content, "greedy")
    assert table.rows == (("0.1", 0, 50), ("0.35", 75, 0), ("0.5", 25, 50))


def test_rare_values_are_lumped_and_columns_add_up_to_a_hundred() -> None:
    counts = {f"0.{i:02d}": 30 - i for i in range(30)}
    content = {"trained": {"greedy": {"choices": {"box_threshold": counts}}}}
    (table,) = tables.choice_tables(content, "greedy")
    assert table.rows[-1][0] == "22 other values"
    assert sum(after or 0 for _, _, after in table.rows) == pytest.approx(100)
    assert {before for _, before, _ in table.rows} == {None}


def test_interval_on_the_track_stays_inside_it() -> None:
    reach = tables.Range(99, -5, 130)
    assert (reach.start, reach.width, reach.position) == (0, 100, 99)


def test_counts_by_family_are_shown_where_the_summary_has_them() -> None:
    content = summary()
    for mode in ("greedy", "sampled"):
        for policy in ("warm_start", "trained"):
            content[policy][mode]["tasks_by_family"] = {"look": 40, "named": 41, "repair": 39}
    assert [(row.name, row.count) for row in tables.score_rows(content)] == [
        ("all", 120), ("look", 40), ("named", 41), ("repair", 39),
    ]  # fmt: skip


def test_blanked_success_stands_beside_success_with_images() -> None:
    content = summary()
    ((policy, family, seeing, blind),) = tables.blanked_rows(content)
    assert (policy, family) == ("trained", "look")
    assert seeing is not None
    assert seeing.mean == pytest.approx(100 * content["trained"]["greedy"]["success"]["look"]["mean"])
    assert blind is not None
    assert (blind.mean, blind.low, blind.high) == pytest.approx((22, 14, 31))
