"""The figures of a calibration, on scores that are written down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest
from PIL import Image

from agentfly.evaluation.calibration.cases import Item, Kind, Material, Pair
from agentfly.evaluation.calibration.measure import Measured, Measurement
from agentfly.evaluation.calibration.statistics import (
    accuracy,
    agreement,
    by_worth,
    comparison_accuracy,
    reliability,
    resistance,
    retest,
)
from agentfly.evaluators import EditSample

SAMPLE = EditSample("x", Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8)))


def item(name: str, kind: Kind = "graded", group: str = "g", worth: float | None = None, label: str = "") -> Item:
    return Item(name, kind, group, label or name, lambda: SAMPLE, worth)


def scores(values: Mapping[str, float | None], *again: Mapping[str, float], label: str = "e") -> Measurement:
    rounds = [{name: Measured(value) for name, value in round_.items()} for round_ in (values, *again)]
    return Measurement(label, rounds[0], rounds[1:], 1.0, 1)


def pair(first: str, second: str, preferred: float = 1.0, group: str = "g", comparison: str = "") -> Pair:
    return Pair(first, second, preferred, "s", "k", group, comparison)


def test_equal_scores_count_half_and_ties_and_missing_ones_not_at_all() -> None:
    found = scores({"a": 80.0, "b": 20.0, "c": 20.01, "d": None})
    pairs = [pair("a", "b"), pair("b", "c"), pair("b", "a"), pair("a", "b", 0.5), pair("a", "d"), pair("b", "a", 0.0)]
    result = accuracy(found, pairs)
    assert (result.pairs, result.ties, result.missing) == (4, 1, 1)
    assert result.share is not None
    assert result.share.mean == (1 + 0.5 + 0 + 1) / 4


def test_the_pairs_of_one_task_do_not_narrow_the_interval() -> None:
    found = scores({"a": 80.0, "b": 20.0})
    one = accuracy(found, [pair("a", "b")] * 50).share
    many = accuracy(found, [pair("a", "b", group=str(number)) for number in range(50)]).share
    assert one is not None
    assert many is not None
    assert one.mean == many.mean == 1.0
    assert one.low < 0.25
    assert many.low > 0.9


def test_a_comparison_of_three_is_right_if_all_its_pairs_are() -> None:
    found = scores({"a": 3.0, "b": 2.0, "c": 1.0})
    right = [pair("a", "b", comparison="x"), pair("b", "c", comparison="x"), pair("a", "c", comparison="x")]
    wrong = [pair("a", "b", comparison="y"), pair("b", "c", 0.0, comparison="y")]
    share = comparison_accuracy(found, [*right, *wrong, pair("c", "a")])
    assert share is not None
    assert share.mean == 0.5
    assert comparison_accuracy(found, [pair("a", "b")]) is None


def attacked(right: float | None, values: Sequence[float | None]) -> tuple[Measurement, list[Item]]:
    items, found = list[Item](), dict[str, float | None]()
    for number, value in enumerate(values):
        items += [item(f"r{number}", group=str(number), label="right")]
        items += [item(f"t{number}", "attack", str(number), label="trick")]
        found |= {f"r{number}": right, f"t{number}": value}
    return scores(found), items


@pytest.mark.parametrize(
    ("right", "values", "through", "let"),
    [
        (80.0, [0.0] * 9 + [39.9], 0.0, False),
        (80.0, [0.0] * 9 + [40.0], 0.1, True),
        # A judge that gives little to everything is fooled by a little.
        (10.0, [6.0] * 10, 1.0, True),
        # Nothing is gained where everything is worth nothing.
        (0.0, [0.0] * 10, 0.0, False),
        (None, [49.0] * 5 + [51.0] * 5, 0.5, True),
    ],
)
def test_an_attack_is_through_relative_to_the_right_edit(
    right: float | None, values: list[float | None], through: float, let: bool
) -> None:
    found = resistance(*attacked(right, values))["trick"]
    assert found.through is not None
    assert found.through.mean == pytest.approx(through)
    assert found.let_through is let
    assert found.highest == max(value for value in values if value is not None)


def test_an_attack_without_any_score_is_not_held_to_be_resisted() -> None:
    found = resistance(*attacked(80.0, [None, None]))["trick"]
    assert (found.score, found.through, found.tasks, found.let_through) == (None, None, 0, False)


def test_the_fitted_scale_is_that_of_the_logistic_law_behind_the_pairs() -> None:
    """Bradley and Terry: with s = 10, a difference of 10 points is right in 73 %, of 30 points in 95 %."""
    found, pairs = {"low": 0.0, "ten": 10.0, "thirty": 30.0}, list[Pair]()
    for name, right in (("ten", 731), ("thirty", 953)):
        pairs += [pair(name, "low", float(number < right)) for number in range(1000)]
    curve = reliability(scores(found), pairs)
    assert curve is not None
    assert curve.scale == pytest.approx(10.0, rel=0.03)
    assert curve.error < 0.01
    assert [part.pairs for part in curve.bins] == [1000, 1000]
    # One who is always sure and half of the time wrong.
    unsure = reliability(scores(found), [pair("thirty", "low", float(number % 2)) for number in range(100)])
    assert unsure is not None
    assert math.isinf(unsure.scale)


def test_a_second_scoring_shows_spread_flips_and_position_bias() -> None:
    items = [item("a"), item("b")]
    material = Material(items, [pair("a", "b")])
    # Whatever comes first gets ten points more: the second round takes b first.
    found = retest(scores({"a": 60.0, "b": 55.0}, {"a": 50.0, "b": 65.0}), material)
    assert found is not None
    assert found.spread == pytest.approx(math.sqrt(50.0))
    assert found.largest == 10.0
    assert found.flipped is not None
    assert found.flipped.mean == 1.0
    assert found.position is not None
    assert found.position.mean == 1.0
    assert retest(scores({"a": 60.0, "b": 55.0}), material) is None


def test_an_evaluator_that_compares_is_measured_on_the_pair_and_on_the_swapped_one() -> None:
    """The scores that it gives each alone say nothing about how it orders."""
    items = [item("a"), item("b")]
    material = Material(items, [pair("a", "b")])
    alone = {"a": Measured(0.0), "b": Measured(100.0)}
    # It prefers what is shown first.
    compared = [{("a", "b"): (100.0, 0.0)}, {("a", "b"): (0.0, 100.0)}]
    found = Measurement("e", alone, [], 1.0, 1, compared)
    share = accuracy(found, material.pairs).share
    assert share is not None
    assert share.mean == 1.0
    again = retest(found, material)
    assert again is not None
    assert again.spread is None
    assert again.position is not None
    assert again.position.mean == 1.0


def test_scores_by_known_worth_and_agreement_of_two() -> None:
    items = [item(str(number), worth=number / 10) for number in range(11)]
    rising = scores({str(number): 5.0 * number for number in range(11)})
    falling = scores({str(number): 50 - 5.0 * number for number in range(11)}, label="f")
    found = by_worth(rising, items)
    assert found is not None
    assert found.correlation is not None
    assert found.correlation.mean == pytest.approx(1.0)
    assert [(worth, score.mean) for worth, score, _ in found.scores][-1] == (1.0, 50.0)
    material = Material(items, [pair("9", "1"), pair("8", "2")])
    both = agreement(rising, falling, material)
    assert both.correlation is not None
    assert both.correlation.mean == pytest.approx(-1.0)
    assert both.same is not None
    assert both.same.mean == 0.0
