"""Evaluators from configuration."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import pytest
from PIL import Image

from agentfly.errors import ConfigError
from agentfly.evaluators import (
    CompositeEvaluator,
    EditSample,
    GuardedEvaluator,
    ReferenceEvaluator,
    Score,
    StructuralEvaluator,
    make_evaluator,
)
from agentfly.evaluators.http import HttpEvaluator
from agentfly.evaluators.judge import VlmJudge
from agentfly.evaluators.measured.detector_checked import DetectorCheckedEvaluator
from agentfly.evaluators.measured.similarity import DirectionalSimilarityEvaluator


class Own:
    """An evaluator of somebody's own."""

    def __init__(self, value: float = 5.0) -> None:
        self.value = value

    async def evaluate(self, sample: EditSample) -> Score:
        return Score(self.value)


def make_own() -> Own:
    return Own(6.0)


READY = Own(7.0)


@pytest.mark.parametrize(
    ("spec", "kind", "settings"),
    [
        ({"evaluator": "reference", "blur": 0.5}, ReferenceEvaluator, {"config.blur": 0.5}),
        ({"evaluator": "structural", "mask_margin": 2}, StructuralEvaluator, {"config.mask_margin": 2}),
        (
            {"evaluator": "judge", "model": "m", "scheme": "simple"},
            VlmJudge,
            {"settings.model": "m", "scheme.name": "simple"},
        ),
        (
            {"evaluator": "detector", "detector": "classical", "overlap": 0.7},
            DetectorCheckedEvaluator,
            {"detector.name": "classical", "settings.overlap": 0.7},
        ),
        ({"evaluator": "http", "base_url": "http://a:1"}, HttpEvaluator, {"settings.base_url": "http://a:1"}),
        ({"evaluator": "similarity", "model": "m"}, DirectionalSimilarityEvaluator, {"settings.model": "m"}),
        (
            {"evaluator": "composite", "how": "minimum", "parts": {"a": "reference", "b": "structural"}},
            CompositeEvaluator,
            {"how": "minimum"},
        ),
        (
            {"evaluator": "structural", "mask_margin": 2, "guard": {"attempts": 1}},
            GuardedEvaluator,
            {"evaluator.config.mask_margin": 2, "settings.attempts": 1},
        ),
    ],
)
def test_a_name_gives_its_evaluator_with_the_settings(spec: Any, kind: type, settings: dict[str, Any]) -> None:
    made = make_evaluator(spec)
    assert isinstance(made, kind)
    assert {name: attrgetter(name)(made) for name in settings} == settings


async def test_the_parts_of_a_composite_are_made_and_asked() -> None:
    image = Image.new("RGB", (2, 2))
    parts = {"a": f"{__name__}:Own", "b": {"evaluator": f"{__name__}:Own", "value": 3.0}}
    made = make_evaluator({"evaluator": "composite", "how": "minimum", "parts": parts})
    assert (await made.evaluate(EditSample("x", image, image))).value == 3.0


def test_an_evaluator_stays_what_it_is() -> None:
    assert make_evaluator(READY) is READY


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (f"{__name__}:Own", 5.0),
        (f"{__name__}:make_own", 6.0),
        (f"{__name__}:READY", 7.0),
        ({"evaluator": f"{__name__}:Own", "value": 8.0}, 8.0),
    ],
)
async def test_one_of_ones_own(spec: Any, value: float) -> None:
    image = Image.new("RGB", (2, 2))
    assert (await make_evaluator(spec).evaluate(EditSample("x", image, image))).value == value


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("referense", "Did you mean 'reference'"),
        ({"model": "m"}, "named under"),
        ({"evaluator": "reference", "blurr": 1}, "blurr"),
        ({"evaluator": "judge"}, "model"),
        ({"evaluator": "judge", "model": "m", "shceme": "simple"}, "scheme"),
        ({"evaluator": "http", "base_url": "localhost"}, "base_url"),
        ({"evaluator": "composite", "parts": ["reference"]}, "mapping"),
        ({"evaluator": "composite", "parts": {"a": "referense"}}, "reference"),
        ({"evaluator": "reference", "guard": {"tries": 1}}, "tries"),
        ("no_such_module:thing", "no evaluator"),
        ("json:dumps", "json:dumps"),
        ("json:JSONDecoder", "has no evaluate"),
    ],
)
def test_what_is_wrong_is_named(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_evaluator(spec)
