"""Pictures with stickers at known places."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from agentfly.vision.figures import Figure

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
