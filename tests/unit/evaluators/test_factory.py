"""Evaluators from configuration."""

from __future__ import annotations

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
from agentfly.evaluators.detector_checked import DetectorCheckedEvaluator
from agentfly.evaluators.http import HttpEvaluator
from agentfly.evaluators.judge import VlmJudge


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
    ("spec", "kind"),
    [
        ("reference", ReferenceEvaluator),
        ({"evaluator": "structural", "mask_margin": 2}, StructuralEvaluator),
        ({"evaluator": "judge", "model": "m", "scheme": "simple"}, VlmJudge),
        ("detector", DetectorCheckedEvaluator),
        ({"evaluator": "http", "base_url": "http://127.0.0.1:1"}, HttpEvaluator),
        ({"evaluator": "composite", "parts": {"a": "reference", "b": "structural"}}, CompositeEvaluator),
        ({"evaluator": "reference", "guard": {"attempts": 1}}, GuardedEvaluator),
    ],
)
def test_names_and_settings(spec: Any, kind: type) -> None:
    assert isinstance(make_evaluator(spec), kind)


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
    picture = Image.new("RGB", (2, 2))
    assert (await make_evaluator(spec).evaluate(EditSample("x", picture, picture))).value == value


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
