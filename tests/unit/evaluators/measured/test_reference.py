"""The reference evaluator: nothing to gain from copying the source or repainting everything."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.datasets import StickerWorld
from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators import EditSample, ReferenceConfig, ReferenceEvaluator, Score
from tests.values import as_image

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
