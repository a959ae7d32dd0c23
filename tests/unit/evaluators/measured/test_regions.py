"""Working on parts of an image changes no score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from agentfly.datasets.photos import load_photo
from agentfly.errors import EvaluatorError
from agentfly.evaluators import ReferenceConfig, ReferenceEvaluator
from agentfly.evaluators.measured import regions

Box = tuple[int, int, int, int]
SIDE = 48


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


def test_regions_are_the_smallest_ones() -> None:
    a = np.zeros((10, 12, 3), np.uint8)
    b = a.copy()
    assert regions.difference(a, b) is None
    b[3, 4, 1], b[7, 2, 0] = 1, 1
    assert regions.difference(a, b) == (slice(3, 8), slice(2, 5))
    assert regions.bounds((a != b).any(axis=2)) == (slice(3, 8), slice(2, 5))
    assert regions.grown((slice(3, 8), slice(2, 5)), 4, a.shape) == (slice(0, 10), slice(0, 9))
