"""Several evaluators as one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators import (
    CompositeEvaluator,
    EditSample,
    PassingFault,
    Score,
    check_sample,
    make_evaluator,
)

SAMPLE = EditSample("x", Image.new("RGB", (4, 4)), None)


class Fixed:
    """Gives one score, or one fault."""

    def __init__(self, given: float | Exception) -> None:
        self.given = given

    async def evaluate(self, sample: EditSample) -> Score:
        if isinstance(self.given, Exception):
            raise self.given
        return Score(self.given, f"I say {self.given:g}.", {"own": self.given / 200})


PARTS = {"a": Fixed(80), "b": Fixed(50)}


async def test_product_minimum_and_weighted_mean() -> None:
    assert (await CompositeEvaluator(PARTS).evaluate(SAMPLE)).value == pytest.approx(40)
    assert (await CompositeEvaluator(PARTS, "product", {"b": 2}).evaluate(SAMPLE)).value == pytest.approx(20)
    assert (await CompositeEvaluator(PARTS, "minimum").evaluate(SAMPLE)).value == pytest.approx(50)
    assert (await CompositeEvaluator(PARTS, "weighted", {"a": 3}).evaluate(SAMPLE)).value == pytest.approx(72.5)


async def test_parts_and_their_aspects_are_named_and_the_weakest_speaks() -> None:
    score = await CompositeEvaluator(PARTS).evaluate(SAMPLE)
    assert score.aspects == {"a": 0.8, "b": 0.5, "a/own": 0.4, "b/own": 0.25}
    assert score.feedback == "Weakest is b (50): I say 50."


@given(st.lists(st.floats(0, 100), min_size=1, max_size=4), st.sampled_from(["product", "minimum"]))
async def test_no_part_can_make_up_for_another(values: list[float], how: str) -> None:
    parts = {str(index): Fixed(value) for index, value in enumerate(values)}
    score = await CompositeEvaluator(parts, how).evaluate(SAMPLE)  # type: ignore[arg-type]
    assert 0 <= score.value <= min(values) + 1e-9


@pytest.mark.parametrize("kind", [EvaluatorError, PassingFault])
async def test_a_part_without_a_score_leaves_none_and_is_named(kind: type[EvaluatorError]) -> None:
    with pytest.raises(kind, match="part 'judge': refused"):
        await CompositeEvaluator({"a": Fixed(100), "judge": Fixed(kind("refused"))}, "weighted").evaluate(SAMPLE)


def test_wrong_settings_are_refused() -> None:
    refused: list[Callable[[], object]] = [
        lambda: CompositeEvaluator({}),
        lambda: CompositeEvaluator(PARTS, "mean"),  # type: ignore[arg-type]
        lambda: CompositeEvaluator(PARTS, "minimum", {"a": 2}),
        lambda: CompositeEvaluator(PARTS, "weighted", {"c": 2}),
        lambda: CompositeEvaluator(PARTS, "weighted", {"a": 0}),
    ]
    for wrong in refused:
        with pytest.raises(ConfigError):
            wrong()


async def test_the_first_part_that_can_score_a_sample_scores_it() -> None:
    cannot = Fixed(EvaluatorError("no target"))
    score = await CompositeEvaluator({"a": cannot, "b": Fixed(50), "c": Fixed(80)}, "first").evaluate(SAMPLE)
    assert (score.value, dict(score.aspects)) == (50.0, {"b": 0.5, "b/own": 0.25})
    with pytest.raises(EvaluatorError, match="part 'a': no target; part 'b': no target"):
        await CompositeEvaluator({"a": cannot, "b": cannot}, "first").evaluate(SAMPLE)
    audit = make_evaluator({"evaluator": "composite", "how": "first", "parts": {"s": "structural", "d": "detector"}})
    await check_sample(audit, EditSample("x", SAMPLE.source, None, metadata={"checks": [{"gone": "red circle"}]}))
    with pytest.raises(EvaluatorError, match=r"part 's': .*part 'd': the task names no checks"):
        await check_sample(audit, SAMPLE)
