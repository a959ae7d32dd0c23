"""Photographs behind the stickers: those of scikit-image that are free to share.

Their makers placed them in the public domain or under CC0, as scikit-image's `skimage.data` documents. Photographs for
training and held-out ones are disjoint. The files are read from the installed package without importing it.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from PIL import Image

from agentfly.errors import DatasetError

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")

# Mean step between neighbouring pixels above which a crop counts as texture that cannot be filled in plausibly.
_TOO_BUSY = 7.0
_TRIES = 3


@dataclass(frozen=True)
class Photo:
    """A photograph: its file in `skimage/data`, its subject, its maker and its licence."""

    file: str
    subject: str
    maker: str
    licence: str


PHOTOS: Mapping[Split, tuple[Photo, ...]] = MappingProxyType(
    {
        "train": (
            Photo("astronaut.png", "Eileen Collins, astronaut", "NASA", "public domain"),
            Photo("coffee.png", "a cup of coffee", "Rachel Michetti", "CC0"),
            Photo("rocket.jpg", "launch of DSCOVR on a Falcon 9", "SpaceX", "public domain"),
            Photo("brick.png", "a brick wall", "CC0Textures, Bricks25", "CC0"),
        ),
        "heldout": (
            Photo("chelsea.png", "Chelsea the cat", "Stefan van der Walt", "CC0"),
            Photo("camera.png", "a photographer with a camera", "Lav Varshney", "CC0"),
            Photo("clock_motion.png", "a wall clock, blurred by motion", "Stefan van der Walt", "public domain"),
        ),
    }
)


@lru_cache(maxsize=16)
def load_photo(file: str) -> Image.Image:
    """Return a photograph in mode RGB. It is shared: do not change it.

    Raises:
        DatasetError: scikit-image is not installed, or its copy lacks the file.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DatasetError("the sticker world needs the photographs in scikit-image: pip install scikit-image")
    path = Path(spec.origin).parent / "data" / file
    if not path.exists():
        raise DatasetError(f"this scikit-image does not hold {file}: pip install 'scikit-image>=0.22'")
    with Image.open(path) as image:
        return image.convert("RGB")


def background(rng: random.Random, split: Split, side: int) -> Image.Image:
    """Return a square crop of a photograph at a random place, scale and flip. Calm crops are preferred.

    Args:
        rng: source of randomness.
        split: of the photograph.
        side: width and height of the crop in pixels.
    """
    photo = load_photo(rng.choice(PHOTOS[split]).file)
    calmest, least = None, float("inf")
    for _ in range(_TRIES):
        extent = rng.randint(min(side, min(photo.size)), min(photo.size))
        left, top = rng.randint(0, photo.width - extent), rng.randint(0, photo.height - extent)
        crop = photo.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + extent, top + extent))
        if rng.random() < 0.5:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        grey = np.asarray(crop.convert("L"), dtype=np.float32)
        busy = float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2
        if busy < least:
            calmest, least = crop, busy
        if least <= _TOO_BUSY:
            break
    assert calmest is not None
    return calmest
