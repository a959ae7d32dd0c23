"""Pixels and light: the transfer function at its published points, and integers that come back as they went."""

from __future__ import annotations

import numpy as np
import pytest

from agentfly.vision.retouching import from_linear, light, to_linear


def test_the_transfer_function_has_its_published_values() -> None:
    values = np.array([0.0, 0.04045, 0.5, 1.0])
    assert to_linear(values) == pytest.approx([0, 0.04045 / 12.92, 0.21404114, 1], abs=1e-8)
    assert from_linear(to_linear(values)) == pytest.approx(values)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_every_level_comes_back_from_light(kind: type[np.uint8]) -> None:
    levels = np.arange(int(np.iinfo(kind).max) + 1, dtype=kind)[:, None]
    assert np.array_equal(light.encoded(light.linear_light(levels), levels), levels)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_light_is_rounded_to_the_nearest_level(kind: type[np.uint8]) -> None:
    """The table of cells must not pass over a level, also where levels are closest, next to black."""
    white = int(np.iinfo(kind).max)
    like = np.zeros((1, 1, 3), kind)
    dense = np.concatenate([np.linspace(0, 0.01, 400_000), np.linspace(0, 1, 400_000)]).astype(np.float32)
    exact = from_linear(dense.astype(np.float64)) * white
    assert np.abs(light.encoded(dense[:, None], like)[:, 0] - exact).max() < 0.502
    assert light.encoded(np.array([[-1.0, 2.0]], np.float32), like).tolist() == [[0, white]]
