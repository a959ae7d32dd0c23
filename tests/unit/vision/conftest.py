"""Images with stickers at known places, tiny checkpoints, and an image and a mask to hand to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from agentfly.vision.shapes import Figure

RED_CIRCLE = Figure("circle", "red", 40.0, 40.0, 16.0, 3.36)
BLUE_CIRCLE = Figure("circle", "blue", 125.0, 45.0, 12.0, 3.36)
GREEN_STAR = Figure("star", "green", 84.0, 120.0, 18.0, 3.36)


@pytest.fixture
def plain() -> Image.Image:
    """A soft grey slope without stickers."""
    slope = np.linspace(90, 160, 168, dtype=np.uint8)
    return Image.fromarray(np.repeat(np.tile(slope, (168, 1))[..., None], 3, axis=2))


@pytest.fixture
def scene(plain: Image.Image) -> Image.Image:
    """The slope with a red circle, a blue circle and a green star."""
    pixels = np.array(plain)
    for figure in (RED_CIRCLE, BLUE_CIRCLE, GREEN_STAR):
        figure.draw(pixels)
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Builds a tiny checkpoint by its name in `tests.tiny`, once a session, and gives its folder."""
    from tests import tiny

    built: dict[str, str] = {}

    def folder(name: str) -> str:
        if name not in built:
            built[name] = str(tiny.build(name, tmp_path_factory.mktemp(name)))
        return built[name]

    return folder


@pytest.fixture
def noise() -> Image.Image:
    """An image of 128 x 96 with a different value at every pixel."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8))


@pytest.fixture
def soft_mask() -> Image.Image:
    """A mask of 128 x 96: a white box with a grey edge on its right."""
    mask = Image.new("L", (128, 96), 0)
    mask.paste(255, (32, 32, 80, 64))
    mask.paste(100, (80, 32, 88, 64))
    return mask
