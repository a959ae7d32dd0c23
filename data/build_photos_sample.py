"""Write `photos_sample.parquet`: photographs, each with an instruction that has one exact answer.

Run it from the root of the repository: `python data/build_photos_sample.py`
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from agentfly.datasets import EditTask, tasks_to_dataset
from agentfly.datasets.photos import PHOTOS, Photo, load_photo

logger = logging.getLogger("build_photos_sample")

DEFAULT_PATH = Path(__file__).parent / "photos_sample.parquet"
SIDE = 128
MORE_PHOTOS = (
    Photo("hubble_deep_field.jpg", "the Hubble eXtreme Deep Field", "NASA", "public domain"),
    Photo("retina.jpg", "the retina of a left eye", "Mikael Häggström", "CC0"),
    Photo("gravel.png", "gravel", "CC0Textures, Gravel04", "CC0"),
)
SOURCES = {photo.file: photo for photo in (*PHOTOS["train"], *PHOTOS["heldout"], *MORE_PHOTOS)}

Pixels = np.ndarray
Change = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class Recipe:
    """One task: a photograph, an instruction, and the operation that carries it out.

    Attributes:
        damages: the operation makes the image to edit, and the photograph is the target.
    """

    name: str
    file: str
    task_type: str
    instruction: str
    change: Change
    damages: bool = False


def _box(pixels: Pixels, box: tuple[float, float, float, float], colour: tuple[int, int, int]) -> Pixels:
    """Fill a box (left, top, right, bottom), in shares of the side."""
    x0, y0, x1, y1 = (round(share * SIDE) for share in box)
    out = pixels.copy()
    out[y0:y1, x0:x1] = colour
    return out


def _boxes(colour: tuple[int, int, int], *boxes: tuple[float, float, float, float]) -> Change:
    def change(pixels: Pixels) -> Pixels:
        for box in boxes:
            pixels = _box(pixels, box, colour)
        return pixels

    return change


def _grey(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


def _right_half_grey(pixels: Pixels) -> Pixels:
    return np.concatenate([pixels[:, : SIDE // 2], _grey(pixels)[:, SIDE // 2 :]], axis=1)


def _left_half_in_blocks(pixels: Pixels, block: int = 8) -> Pixels:
    half = pixels[:, : SIDE // 2].astype(np.uint32)
    tiles = half.reshape(SIDE // block, block, SIDE // 2 // block, block, 3).sum(axis=(1, 3)) // block**2
    coarse = tiles.repeat(block, axis=0).repeat(block, axis=1).astype(np.uint8)
    return np.concatenate([coarse, pixels[:, SIDE // 2 :]], axis=1)


BLACK, WHITE, RED, BLUE = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255)
_THIN, _LAST = 1 / 16, 15 / 16
RECIPES = (
    Recipe("mirror", "chelsea.png", "geometry", "Flip the picture from left to right.", lambda p: p[:, ::-1]),
    Recipe("rotate", "rocket.jpg", "geometry", "Rotate the picture by 180 degrees.", lambda p: p[::-1, ::-1]),
    Recipe("grey", "coffee.png", "colour", "Make the picture black and white.", _grey),
    Recipe("invert", "astronaut.png", "colour", "Invert all colours of the picture.", lambda p: 255 - p),
    Recipe("channels", "retina.jpg", "colour", "Swap the red and the blue channel.", lambda p: p[..., ::-1]),
    Recipe("half-grey", "rocket.jpg", "colour", "Make only the right half black and white.", _right_half_grey),
    Recipe("darken", "camera.png", "tone", "Make the picture half as bright.", lambda p: p // 2),
    Recipe("blocks", "chelsea.png", "style", "Pixelate the left half in blocks of 8 pixels.", _left_half_in_blocks),
    Recipe(
        "square", "clock_motion.png", "add", "Paint a pure red square, half as wide as the picture, in its middle.",
        _boxes(RED, (0.25, 0.25, 0.75, 0.75)),
    ),
    Recipe(
        "frame", "coffee.png", "add", "Put a white frame around the picture, a sixteenth of its width.",
        _boxes(WHITE, (0, 0, 1, _THIN), (0, _LAST, 1, 1), (0, 0, _THIN, 1), (_LAST, 0, 1, 1)),
    ),
    Recipe(
        "cover", "astronaut.png", "add", "Cover the bottom quarter of the picture with black.",
        _boxes(BLACK, (0, 0.75, 1, 1)),
    ),
    Recipe(
        "bar", "hubble_deep_field.jpg", "remove", "Remove the white bar.",
        _boxes(WHITE, (0.45, 0.1, 0.5, 0.9)), damages=True,
    ),
    Recipe(
        "scratches", "brick.png", "remove", "Remove the three black scratches.",
        _boxes(BLACK, (0.1, 0.2, 0.7, 0.22), (0.3, 0.5, 0.9, 0.52), (0.2, 0.8, 0.6, 0.82)), damages=True,
    ),
    Recipe(
        "patch", "gravel.png", "remove", "Remove the blue square.",
        _boxes(BLUE, (0.4, 0.55, 0.55, 0.7)), damages=True,
    ),
)  # fmt: skip


def photograph(file: str) -> Pixels:
    """Return the middle square of a photograph of scikit-image, `SIDE` pixels wide."""
    photo = load_photo(file)
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.asarray(square)


def _task(recipe: Recipe) -> EditTask:
    photo = photograph(recipe.file)
    changed = np.ascontiguousarray(recipe.change(photo))
    source, target = (changed, photo) if recipe.damages else (photo, changed)
    origin = SOURCES[recipe.file]
    return EditTask(
        id=f"photo-{recipe.name}",
        instruction=recipe.instruction,
        images=(Image.fromarray(source),),
        target=Image.fromarray(target),
        mask=Image.fromarray(np.where((source != target).any(axis=2), 255, 0).astype(np.uint8)),
        task_type=recipe.task_type,
        metadata={"photo": origin.file, "maker": origin.maker, "licence": origin.licence},
    )


def sample_tasks() -> list[EditTask]:
    """Return the tasks of the sample, in the order of its rows."""
    return [_task(recipe) for recipe in RECIPES]


def main() -> None:
    """Write the sample to the path on the command line, or to the default one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=DEFAULT_PATH)
    path: Path = parser.parse_args().path
    rows = tasks_to_dataset(sample_tasks())
    rows.to_parquet(str(path))
    logger.info("%s: %d rows, %d KiB", path, len(rows), path.stat().st_size // 1024)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
