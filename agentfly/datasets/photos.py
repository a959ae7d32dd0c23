"""Photographs to put stickers on: the ones that come with scikit-image and are free to share.

All were placed in the public domain or under CC0 by their makers, as scikit-image's `skimage.data` documents. Those for
training and those held out are disjoint. The files are read from the installed package, without importing it.
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

# Mean step between neighbouring pixels above which a crop is taken for texture that nobody could fill in plausibly.
_TOO_BUSY = 7.0
_TRIES = 3


@dataclass(frozen=True)
class Photo:
    """One photograph: its file in `skimage/data`, what it shows, who made it, and its licence."""

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
    """The photograph in mode RGB; shared, so do not change it.

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
    """A square crop of a photograph of the split, at random place, scale and flip; calm crops are preferred."""
    photo = load_photo(rng.choice(PHOTOS[split]).file)
    calmest, least = None, float("inf")
    for _ in range(_TRIES):
        crop = _crop(rng, photo, side)
        busy = _busyness(crop)
        if busy < least:
            calmest, least = crop, busy
        if least <= _TOO_BUSY:
            break
    assert calmest is not None
    return calmest


def _crop(rng: random.Random, photo: Image.Image, side: int) -> Image.Image:
    shorter = min(photo.size)
    extent = rng.randint(min(side, shorter), shorter)
    left, top = rng.randint(0, photo.width - extent), rng.randint(0, photo.height - extent)
    crop = photo.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + extent, top + extent))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def _busyness(image: Image.Image) -> float:
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2
