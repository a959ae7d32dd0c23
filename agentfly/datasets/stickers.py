"""The sticker world: editing tasks with an exact answer, on real photographs, without any download.

Two or three stickers with white die-cut borders lie on a photograph, in five cells of a 3 x 3 grid. A task depends
only on its index, split, family and seed. Held-out tasks differ from training in their photographs, their sets of
occupied cells and their sentences; each word of these sentences also occurs in training.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from agentfly.datasets.photos import SPLITS, Split, background
from agentfly.datasets.task import EditTask
from agentfly.datasets.wording import PLACES, SYNONYMS, article, double_sentence, largest, sentence
from agentfly.errors import ConfigError, unknown_name
from agentfly.vision.shapes import COLOURS, SHAPES, Figure, border_width, largest_inside

FAMILIES: tuple[str, ...] = ("named", "replace", "look", "two_step", "repair")

_CELLS = {"top left": (0, 0), "top right": (0, 2), "center": (1, 1), "bottom left": (2, 0), "bottom right": (2, 2)}
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
    )
)
# Outer radii in pixels at side 168, and factors on the radius that make the four shapes look equally large.
_REFERENCE_SIDE = 168
_SMALL, _LARGE, _JITTER = (14.0, 16.0), (23.0, 25.0), 2.0
_SHAPE_FACTOR = {"circle": 1.0, "square": 0.92, "triangle": 1.25, "star": 1.2}
_SHARED_SHAPE = 0.8


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
class _Step:
    """One edit: the sticker, and the figure that takes its place (None: the photograph)."""

    sticker: Sticker
    new: Figure | None = None

    @property
    def new_words(self) -> str:
        return f"{self.new.colour} {self.new.shape}" if self.new else ""


@dataclass(frozen=True)
class _Plan:
    """The instruction of a task, its steps, and the user's own words where they differ from the detector's."""

    instruction: str
    steps: tuple[_Step, ...]
    said: str | None = None


class StickerWorld:
    """A generator of sticker tasks.

    Args:
        side: width and height of the images in pixels, at least 84. All sizes scale with it.
    """

    def __init__(self, side: int = _REFERENCE_SIDE) -> None:
        if side < _REFERENCE_SIDE // 2:
            raise ConfigError(f"side must be at least {_REFERENCE_SIDE // 2} pixels, got {side}")
        self.side = side

    def task(self, index: int, split: Split, family: str | None = None, seed: int = 0) -> EditTask:
        """Make a task.

        Args:
            index: number within split and family.
            split: "train" or "heldout".
            family: one of `FAMILIES`; by default they take turns.
            seed: of the whole data set.

        Raises:
            ConfigError: unknown split or family.
        """
        if split not in SPLITS:
            raise ConfigError(unknown_name("split", split, SPLITS))
        family = family or FAMILIES[index % len(FAMILIES)]
        if family not in FAMILIES:
            raise ConfigError(unknown_name("family", family, FAMILIES))
        rng = random.Random(f"{seed}/{split}/{family}/{index}")
        photo = np.asarray(background(rng, split, self.side))
        stickers = self._stickers(rng, split, family)
        plan = _PLANS[family](rng, split, stickers)
        return self._finish(f"{split}-{family}-{seed}-{index}", family, photo, stickers, plan)

    def _stickers(self, rng: random.Random, split: Split, family: str) -> list[Sticker]:
        count = 3 if family == "repair" and rng.random() < 0.8 else rng.choice((2, 3))
        layouts = [
            places
            for places in itertools.combinations(PLACES, count)
            if (frozenset(places) in _HELDOUT_LAYOUTS) == (split == "heldout")
        ]
        places = list(rng.choice(layouts))
        rng.shuffle(places)
        colours = rng.sample(list(COLOURS), count)
        # Tasks are about the first sticker. Another one usually shares its shape, unless it must be unique.
        first, *others = rng.sample(SHAPES, count)
        if rng.random() < _SHARED_SHAPE:
            if family != "repair":
                others[0] = first
            elif count == 3:
                others[1] = others[0]
        large = rng.randrange(count)
        return [
            Sticker(self._place(rng, colour, shape, place, i == large), place, i == large)
            for i, (colour, shape, place) in enumerate(zip(colours, (first, *others), places, strict=True))
        ]

    def _place(self, rng: random.Random, colour: str, shape: str, place: str, is_large: bool) -> Figure:
        unit, cell = self.side / _REFERENCE_SIDE, self.side / 3
        border = border_width(self.side, self.side)
        outer = rng.uniform(*(_LARGE if is_large else _SMALL)) * unit
        figure = Figure(shape, colour, 0.0, 0.0, (outer - border) * _SHAPE_FACTOR[shape], border)
        x0, y0, x1, y1 = figure.box
        spare = (cell - max(x1 - x0, y1 - y0)) / 2 - 0.5
        reach = max(0.0, min(_JITTER * unit, spare))
        row, column = _CELLS[place]
        # Centre the box, not the centroid, in the cell.
        return replace(
            figure,
            x=(column + 0.5) * cell - 0.5 - (x0 + x1 - 1) / 2 + rng.uniform(-reach, reach),
            y=(row + 0.5) * cell - 0.5 - (y0 + y1 - 1) / 2 + rng.uniform(-reach, reach),
        )

    def _finish(
        self, identity: str, family: str, photo: np.ndarray, stickers: Sequence[Sticker], plan: _Plan
    ) -> EditTask:
        source, target = photo.copy(), photo.copy()
        after = {step.sticker.figure: step.new for step in plan.steps}
        for sticker in stickers:
            sticker.figure.draw(source)
            final = after.get(sticker.figure, sticker.figure)
            if final is not None:
                final.draw(target)
        mask = np.where((source != target).any(axis=2), 255, 0).astype(np.uint8)
        return EditTask(
            id=identity,
            instruction=plan.instruction,
            images=(Image.fromarray(source),),
            target=Image.fromarray(target),
            mask=Image.fromarray(mask),
            task_type=family,
            metadata=_metadata(family, stickers, plan),
        )


def _plan_named(rng: random.Random, split: Split, stickers: Sequence[Sticker]) -> _Plan:
    target = stickers[0]
    return _Plan(sentence(rng, split, "remove", f"the {target.words}"), (_Step(target),))


def _plan_replace(rng: random.Random, split: Split, stickers: Sequence[Sticker]) -> _Plan:
    target = stickers[0]
    colour = _free_colour(rng, stickers)
    if rng.random() < 0.5:
        step = _Step(target, replace(target.figure, colour=colour))
        return _Plan(sentence(rng, split, "recolour", f"the {target.words}", colour), (step,))
    # Another shape has a fair size only inside the outline of a circle or a square.
    shape = rng.choice(SHAPES) if target.figure.shape in ("circle", "square") else target.figure.shape
    new = replace(target.figure, colour=colour)
    if shape != new.shape:
        # The largest figure of that shape inside the old outline, but for a pixel at its corners.
        side = int(2 * (new.radius * 1.5 + new.border)) + 3
        depth = replace(new, x=side / 2, y=side / 2).depth(side, side)
        new = replace(new, shape=shape, radius=largest_inside(depth, shape, side / 2, side / 2, new.border))
    step = _Step(target, new)
    return _Plan(sentence(rng, split, "replace", f"the {target.words}", article(step.new_words)), (step,))


def _plan_look(rng: random.Random, split: Split, stickers: Sequence[Sticker]) -> _Plan:
    if rng.random() < 0.5:
        target = next(sticker for sticker in stickers if sticker.is_largest)
        return _Plan(sentence(rng, split, "remove", largest(rng)), (_Step(target),))
    target = stickers[0]
    return _Plan(sentence(rng, split, "remove", f"the sticker in the {target.place}"), (_Step(target),))


def _plan_two_step(rng: random.Random, split: Split, stickers: Sequence[Sticker]) -> _Plan:
    one, two = rng.sample(list(stickers), 2)
    colour = _free_colour(rng, stickers)
    unique = sum(sticker.figure.shape == two.figure.shape for sticker in stickers) == 1
    two_words = f"the {two.figure.shape if unique and rng.random() < 0.5 else two.words}"
    removal = (("remove", (f"the {one.words}",)), _Step(one))
    recolour = (("recolour", (two_words, colour)), _Step(two, replace(two.figure, colour=colour)))
    first, second = (removal, recolour) if rng.random() < 0.5 else (recolour, removal)
    return _Plan(double_sentence(rng, split, first[0], second[0]), (first[1], second[1]))


def _plan_repair(rng: random.Random, split: Split, stickers: Sequence[Sticker]) -> _Plan:
    target = stickers[0]
    colour, shape = target.figure.colour, target.figure.shape
    by_shape = shape in SYNONYMS and rng.random() < 0.25
    said = f"{colour} {SYNONYMS[shape]}" if by_shape else f"{SYNONYMS[colour]} {shape}"
    return _Plan(sentence(rng, split, "remove", f"the {said}"), (_Step(target),), said)


_PLANS = {
    "named": _plan_named,
    "replace": _plan_replace,
    "look": _plan_look,
    "two_step": _plan_two_step,
    "repair": _plan_repair,
}


def _free_colour(rng: random.Random, stickers: Sequence[Sticker]) -> str:
    used = {sticker.figure.colour for sticker in stickers}
    return rng.choice([colour for colour in COLOURS if colour not in used])


def _metadata(family: str, stickers: Sequence[Sticker], plan: _Plan) -> dict[str, object]:
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
    return metadata
