"""The parts that sticker tasks are made of: stickers in their cells, the steps of an edit, and the finished task."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentfly.datasets.photos import Split
from agentfly.datasets.task import EditTask
from agentfly.datasets.wording import PLACES
from agentfly.vision.shapes import COLOURS, Figure, border_width

REFERENCE_SIDE = 168
# Outer radii in pixels at that side, and factors on the radius that make the four shapes look equally large.
SMALL, LARGE, JITTER = (14.0, 16.0), (23.0, 25.0), 2.0
SHAPE_FACTOR = {"circle": 1.0, "square": 0.92, "triangle": 1.25, "star": 1.2}
SHARED_SHAPE = 0.8

CELLS = {"top left": (0, 0), "top right": (0, 2), "center": (1, 1), "bottom left": (2, 0), "bottom right": (2, 2)}
# Sets of occupied cells that occur in held-out images only; each cell occurs in both splits.
_HELDOUT_LAYOUTS = frozenset(
    frozenset(layout)
    for layout in (
        ("top left", "bottom right"),
        ("top right", "center"),
        ("bottom left", "center"),
        ("top left", "top right", "center"),
        ("top left", "bottom left", "bottom right"),
        ("top right", "center", "bottom left"),
        ("top left", "top right", "center", "bottom left"),
        ("top left", "center", "bottom left", "bottom right"),
    )
)


@dataclass(frozen=True)
class Sticker:
    """A figure, the name of its place, and a mark for the largest one of the image."""

    figure: Figure
    place: str
    is_largest: bool

    @property
    def words(self) -> str:
        """Colour and shape as words."""
        return f"{self.figure.colour} {self.figure.shape}"


@dataclass(frozen=True)
class Step:
    """One edit: the sticker, and the figure that takes its place (None: the photograph)."""

    sticker: Sticker
    new: Figure | None = None

    @property
    def new_words(self) -> str:
        """Colour and shape of the new figure as words; empty for a removal."""
        return f"{self.new.colour} {self.new.shape}" if self.new else ""


@dataclass(frozen=True)
class Plan:
    """The content of a task.

    Attributes:
        instruction: to the agent.
        steps: the edits.
        said: the user's own words where they differ from the detector's.
        more: further metadata.
    """

    instruction: str
    steps: tuple[Step, ...]
    said: str | None = None
    more: Mapping[str, object] = field(default_factory=dict)


def layouts(split: Split, count: int) -> list[tuple[str, ...]]:
    """Return the sets of `count` occupied cells that occur in a split, by the names of their places."""
    return [
        places
        for places in itertools.combinations(PLACES, count)
        if (frozenset(places) in _HELDOUT_LAYOUTS) == (split == "heldout")
    ]


def place_figure(
    rng: random.Random,
    side: int,
    colour: str,
    shape: str,
    place: str,
    outer: tuple[float, float],
    *,
    border: float | None = None,
    fill: tuple[int, int, int] | None = None,
) -> Figure:
    """Return a figure near the middle of a cell.

    Args:
        rng: source of randomness.
        side: of the image in pixels.
        colour, shape: of the figure.
        place: name of the cell.
        outer: range of its radius with border, in pixels at `REFERENCE_SIDE`.
        border: width of its border in pixels at that side; as `border_width` says by default.
        fill: see `Figure`.
    """
    unit, cell = side / REFERENCE_SIDE, side / 3
    width = border_width(side, side) if border is None else border * unit
    radius = (rng.uniform(*outer) * unit - width) * SHAPE_FACTOR[shape]
    figure = Figure(shape, colour, 0.0, 0.0, radius, width, fill)
    x0, y0, x1, y1 = figure.box
    spare = (cell - max(x1 - x0, y1 - y0)) / 2 - 0.5
    reach = max(0.0, min(JITTER * unit, spare))
    row, column = CELLS[place]
    # Centre the box, not the centroid, in the cell.
    return replace(
        figure,
        x=(column + 0.5) * cell - 0.5 - (x0 + x1 - 1) / 2 + rng.uniform(-reach, reach),
        y=(row + 0.5) * cell - 0.5 - (y0 + y1 - 1) / 2 + rng.uniform(-reach, reach),
    )


def cell_box(side: int, place: str) -> tuple[int, int, int, int]:
    """Return the box (x0, y0, x1, y1) of a cell in whole pixels of an image with this side, end exclusive."""
    row, column = CELLS[place]
    x0, y0, x1, y1 = (round(number * side / 3) for number in (column, row, column + 1, row + 1))
    return x0, y0, x1, y1


def free_colour(rng: random.Random, stickers: Sequence[Sticker]) -> str:
    """Return a colour that no sticker has."""
    used = {sticker.figure.colour for sticker in stickers}
    return rng.choice([colour for colour in COLOURS if colour not in used])


def edited(
    photo: NDArray[np.uint8], stickers: Sequence[Sticker], steps: Sequence[Step]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw stickers on a photograph (H, W, 3), before and after the steps."""
    source, target = photo.copy(), photo.copy()
    after = {step.sticker.figure: step.new for step in steps}
    for sticker in stickers:
        sticker.figure.draw(source)
        final = after.get(sticker.figure, sticker.figure)
        if final is not None:
            final.draw(target)
    return source, target


def finished(identity: str, family: str, photo: NDArray[np.uint8], stickers: Sequence[Sticker], plan: Plan) -> EditTask:
    """Return the task of a plan: images before and after, the mask of what differs, and the metadata."""
    source, target = edited(photo, stickers, plan.steps)
    mask = np.where((source != target).any(axis=2), 255, 0).astype(np.uint8)
    return EditTask(
        id=identity,
        instruction=plan.instruction,
        images=(Image.fromarray(source),),
        target=Image.fromarray(target),
        mask=Image.fromarray(mask),
        task_type=family,
        metadata=described(family, stickers, plan),
    )


def described(family: str, stickers: Sequence[Sticker], plan: Plan) -> dict[str, object]:
    """Return the metadata of a task: its stickers, its steps in the detector's words, and what else the plan has."""
    targets = [step.sticker for step in plan.steps]
    listed = [
        {
            "colour": sticker.figure.colour,
            "shape": sticker.figure.shape,
            "place": sticker.place,
            "box": list(sticker.figure.box),
            "radius": round(sticker.figure.radius, 2),
            "is_largest": sticker.is_largest,
            "is_target": sticker in targets,
        }
        for sticker in stickers
    ]
    steps = [
        {"action": "replace" if step.new else "remove", "detect": step.sticker.words, "new": step.new_words}
        for step in plan.steps
    ]
    metadata: dict[str, object] = {"family": family, "stickers": listed, "steps": steps}
    if plan.said is not None:
        metadata["said"] = plan.said
    return {**metadata, **plan.more}
