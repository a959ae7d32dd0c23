"""The reference evaluator: nothing to gain from copying the source or repainting everything."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from agentfly.datasets import StickerWorld
from agentfly.datasets.photos import load_photo
from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators import EditSample, ReferenceConfig, ReferenceEvaluator, Score
from agentfly.evaluators.measured import lab, reference
from agentfly.evaluators.measured.lab import LabMemory
from tests.values import as_image

Box = tuple[int, int, int, int]
SIDE = 48
TASK = StickerWorld().task(3, "heldout", "named")
SOURCE, TARGET, MASK = (as_image(image) for image in (TASK.images[0], TASK.target, TASK.mask))


def score(result: Image.Image | None, **changes: Image.Image | None) -> Score:
    fields: dict[str, Any] = {"source": SOURCE, "target": TARGET, "mask": MASK, **changes}
    return asyncio.run(ReferenceEvaluator().evaluate(EditSample(TASK.instruction, result=result, **fields)))


def mixed(share: float) -> Image.Image:
    return Image.blend(SOURCE, TARGET, share)


def test_the_target_is_worth_everything() -> None:
    result = score(TARGET)
    assert result.value == pytest.approx(100.0)
    assert result.aspects == {"inside": 1.0, "outside": 1.0, "changed": 1.0}
    assert "is done" in result.feedback


def test_the_source_is_worth_nothing() -> None:
    result = score(SOURCE)
    assert result.value == 0.0
    assert result.aspects["changed"] == 0.0
    assert "unchanged" in result.feedback


def test_noise_that_nobody_sees_is_still_no_change() -> None:
    pixels = np.array(SOURCE)
    pixels[::7, ::7] ^= 1
    assert score(Image.fromarray(pixels)).value == 0.0


def test_no_result_is_worth_nothing() -> None:
    result = score(None)
    assert result.value == 0.0
    assert "no result" in result.feedback


def test_the_score_rises_with_the_edit() -> None:
    values = [score(mixed(share)).value for share in (0.2, 0.4, 0.6, 0.8)]
    assert values == sorted(values)
    assert 0 < values[0] < 40 < values[-1]


def test_the_score_falls_with_every_change_elsewhere() -> None:
    values = []
    for side in (5, 10, 20, 40):
        spoiled = TARGET.copy()
        spoiled.paste((255, 0, 255), (60, 60, 60 + side, 60 + side))
        result = score(spoiled)
        values.append(result.value)
        assert result.aspects["inside"] > 0.7
    assert values == sorted(values, reverse=True)
    assert values[0] > 80
    assert values[-1] < 30
    assert "should have stayed" in result.feedback


def test_repainting_everything_is_worth_nothing() -> None:
    assert score(Image.new("RGB", SOURCE.size, "grey")).value < 1.0


def test_making_it_worse_is_not_below_zero() -> None:
    pixels = np.array(SOURCE)
    pixels[np.asarray(MASK) > 0] = (0, 255, 0)
    assert score(Image.fromarray(pixels)).value == 0.0


def test_a_result_of_another_size_is_resized() -> None:
    large = TARGET.resize((336, 336), Image.Resampling.BICUBIC)
    assert score(large).value > 85


@pytest.mark.parametrize("missing", ["target", "mask"])
def test_it_needs_target_and_mask(missing: str) -> None:
    with pytest.raises(EvaluatorError, match="needs the target and the mask"):
        score(TARGET, **{missing: None})


def test_sizes_must_agree_and_the_mask_must_not_be_empty() -> None:
    with pytest.raises(EvaluatorError, match="the mask is"):
        score(TARGET, mask=Image.new("L", (10, 10), 255))
    with pytest.raises(EvaluatorError, match="mask is empty"):
        score(TARGET, mask=Image.new("L", SOURCE.size))


def test_the_configuration_is_frozen_and_checked() -> None:
    with pytest.raises(ConfigError):
        ReferenceConfig(blur=0)
    with pytest.raises(ConfigError):
        ReferenceConfig(unknown=1)  # type: ignore[call-arg]


def test_it_is_quick() -> None:
    score(TARGET)
    fastest = min(_seconds() for _ in range(10))
    assert fastest < 0.03


def _seconds() -> float:
    start = time.perf_counter()
    score(mixed(0.5))
    return time.perf_counter() - start


def boxes() -> st.SearchStrategy[Box]:
    edges = st.tuples(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1))
    sizes = st.tuples(st.integers(1, 20), st.integers(1, 20))
    return st.tuples(edges, sizes).map(
        lambda b: (b[0][0], b[0][1], min(SIDE, b[0][0] + b[1][0]), min(SIDE, b[0][1] + b[1][1]))
    )


def whole_image(config: ReferenceConfig, *images: Image.Image) -> dict[str, float]:
    """The formula of the docstring, taken literally over all pixels; empty where there is nothing to edit."""
    import cv2

    def lab(image: Image.Image) -> np.ndarray:
        pixels = np.asarray(image, np.float32) / 255
        return cv2.cvtColor(cv2.GaussianBlur(pixels, (0, 0), config.blur), cv2.COLOR_RGB2LAB).astype(np.float64)

    def distance(a: np.ndarray, b: np.ndarray, weight: float = 1.0) -> np.ndarray:
        return np.sqrt((((a - b) * (weight, 1, 1)) ** 2).sum(axis=2))

    source, result, target = (lab(image) for image in images[:3])
    within = np.asarray(images[3]) > 127
    errors = []
    for x in (source, result):
        e = np.maximum(distance(x, target, config.lightness_weight)[within] - config.inside_tolerance, 0)
        errors.append((e / (e + config.inside_half)).mean())
    if errors[0] == 0:
        return {}
    moved = distance(result, source)
    away = np.minimum(moved, distance(result, target))[~within]
    spoiled = np.clip((away - config.outside_tolerance) / config.outside_range, 0, 1).sum() / within.size
    return {
        "inside": float(np.clip(1 - errors[1] / errors[0], 0, 1)),
        "outside": float(np.exp(-config.outside_decay * spoiled)),
        "changed": float(moved.max() > config.changed_tolerance),
    }


@example(mask=(0, 0, 1, 1), spoiled=(0, 0, 1, 1), blur=2.5)  # a pixel that vanishes in a wide blur
@given(mask=boxes(), spoiled=boxes(), blur=st.sampled_from([0.5, 1.0, 2.5]))
@settings(max_examples=30, deadline=None)
def test_the_reference_score_is_that_of_the_whole_image(mask: Box, spoiled: Box, blur: float) -> None:
    source = load_photo("coffee.png").resize((SIDE, SIDE))
    target, result, marked = source.copy(), source.copy(), Image.new("L", source.size)
    target.paste((20, 160, 60), mask)
    marked.paste(255, mask)
    result.paste((60, 170, 90), mask)
    result.paste((255, 0, 255), spoiled)
    config = ReferenceConfig(blur=blur)
    expected = whole_image(config, source, result, target, marked)
    if not expected:
        with pytest.raises(EvaluatorError, match="an edit that does nothing would look correct"):
            ReferenceEvaluator(config)._score(source, result, target, marked)
        return
    aspects = ReferenceEvaluator(config)._score(source, result, target, marked).aspects
    assert max(abs(aspects[name] - expected[name]) for name in expected) < 1e-4


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("strip", [1, 700, 5000])
def test_strips_and_memory_change_no_score(monkeypatch: pytest.MonkeyPatch, strip: int, whole: bool) -> None:
    """To the last digit, or equal chains would have unequal rewards by what was scored before them."""
    result = mixed(0.7)
    if whole:
        noise = np.random.default_rng(0).normal(0, 3, (*SOURCE.size, 3))
        result = Image.fromarray(np.clip(np.asarray(result) + noise, 0, 255).astype(np.uint8))

    def scored(pixels: int, memory: LabMemory) -> Score:
        for module in (lab, reference):
            monkeypatch.setattr(module, "STRIP", pixels)
        monkeypatch.setattr(reference, "_SOURCES", memory)
        return score(result)

    expected = scored(10**9, LabMemory(0))
    memory = LabMemory()
    assert [scored(strip, LabMemory(0)), scored(strip, memory), scored(strip, memory)] == [expected] * 3


def own(constants: object) -> Score:
    sample = EditSample("", SOURCE, mixed(0.7), TARGET, MASK, metadata={"reference_evaluator": constants})
    return asyncio.run(ReferenceEvaluator().evaluate(sample))


def test_a_task_brings_constants_of_its_own() -> None:
    finer = {"inside_tolerance": 1.0, "lightness_weight": 1.0}
    expected = ReferenceEvaluator(ReferenceConfig(inside_tolerance=1.0, lightness_weight=1.0))
    sample = EditSample("", SOURCE, mixed(0.7), TARGET, MASK)
    assert own(finer) == asyncio.run(expected.evaluate(sample))
    assert own(finer).value < own({}).value == score(mixed(0.7)).value


@pytest.mark.parametrize(
    "constants",
    [
        *("fine", ["inside_tolerance"], {"inside_tolerence": 1.0}, {"inside_tolerance": -1.0}),
        *({"outside_decay": math.inf}, {"inside_half": "nan"}, {"blur": 1e9}),
    ],
)
def test_wrong_constants_are_no_score(constants: object) -> None:
    with pytest.raises(EvaluatorError, match="reference_evaluator in the metadata"):
        own(constants)
