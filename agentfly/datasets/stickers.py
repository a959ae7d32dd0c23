"""The sticker world: editing tasks with an exact answer, on real photographs, without any download.

Two or three stickers with white die-cut borders lie on a photograph, in five cells of a 3 x 3 grid. A task depends
only on its index, split, family and seed. Held-out tasks differ from training in their photographs, their sets of
occupied cells and their sentences; each word of these sentences also occurs in training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agentfly.datasets.look_tasks import LOOK_PLANS
from agentfly.datasets.photos import SPLITS, Split, background
from agentfly.datasets.retouch_tasks import RETOUCH_PLANS, retouch_task
from agentfly.datasets.sticker_layout import (
    LARGE,
    REFERENCE_SIDE,
    SHARED_SHAPE,
    SMALL,
    Plan,
    Step,
    Sticker,
    finished,
    free_colour,
    layouts,
    place_figure,
)
from agentfly.datasets.task import EditTask
from agentfly.datasets.wording import SYNONYMS, article, double_sentence, largest, sentence
from agentfly.errors import ConfigError, unknown_name
from agentfly.vision.shapes import COLOURS, SHAPES, largest_inside

FAMILIES: tuple[str, ...] = ("named", "replace", "look", "two_step", "repair")
LOOK_FAMILIES: tuple[str, ...] = tuple(LOOK_PLANS)
RETOUCH_FAMILIES: tuple[str, ...] = tuple(RETOUCH_PLANS)
ALL_FAMILIES: tuple[str, ...] = (*FAMILIES, *LOOK_FAMILIES, *RETOUCH_FAMILIES)


@dataclass(frozen=True)
class Scene:
    """The parts of a task, from which other edits of the same photograph can be made.

    Attributes:
        photo: RGB without stickers, (H, W, 3).
        stickers: that lie on it.
        plan: instruction and steps; for a family of `RETOUCH_FAMILIES` it is None.
    """

    photo: NDArray[np.uint8]
    stickers: Sequence[Sticker]
    plan: Plan | None


class StickerWorld:
    """A generator of sticker tasks.

    Args:
        side: width and height of the images in pixels, at least 84. All sizes scale with it.
    """

    def __init__(self, side: int = REFERENCE_SIDE) -> None:
        if side < REFERENCE_SIDE // 2:
            raise ConfigError(f"side must be at least {REFERENCE_SIDE // 2} pixels, got {side}")
        self.side = side

    def task(self, index: int, split: Split, family: str | None = None, seed: int = 0) -> EditTask:
        """Make a task.

        Args:
            index: number within split and family.
            split: "train" or "heldout".
            family: one of `ALL_FAMILIES`; by default those of `FAMILIES` take turns.
            seed: of the whole data set.

        Raises:
            ConfigError: unknown split or family.
        """
        if split not in SPLITS:
            raise ConfigError(unknown_name("split", split, SPLITS))
        family = family or FAMILIES[index % len(FAMILIES)]
        if family not in ALL_FAMILIES:
            raise ConfigError(unknown_name("family", family, ALL_FAMILIES))
        rng = random.Random(f"{seed}/{split}/{family}/{index}")
        scene = self._scene(rng, split, family)
        identity = f"{split}-{family}-{seed}-{index}"
        if scene.plan is None:
            return retouch_task(identity, family, rng, split, scene.photo, scene.stickers)
        return finished(identity, family, scene.photo, scene.stickers, scene.plan)

    def scene(self, index: int, split: Split, family: str, seed: int = 0) -> Scene:
        """Return the parts of the task that `task` makes of the same arguments.

        Raises:
            ConfigError: unknown family.
        """
        if family not in ALL_FAMILIES:
            raise ConfigError(unknown_name("family", family, ALL_FAMILIES))
        return self._scene(random.Random(f"{seed}/{split}/{family}/{index}"), split, family)

    def _scene(self, rng: random.Random, split: Split, family: str) -> Scene:
        photo = np.asarray(background(rng, split, self.side))
        if family in LOOK_PLANS:
            return Scene(photo, *LOOK_PLANS[family](rng, split, self.side))
        stickers = self._stickers(rng, split, family)
        return Scene(photo, stickers, None if family in RETOUCH_PLANS else _PLANS[family](rng, split, stickers))

    def _stickers(self, rng: random.Random, split: Split, family: str) -> list[Sticker]:
        count = 3 if family == "repair" and rng.random() < 0.8 else rng.choice((2, 3))
        places = list(rng.choice(layouts(split, count)))
        rng.shuffle(places)
        colours = rng.sample(list(COLOURS), count)
        # Tasks are about the first sticker. Another one usually shares its shape, unless it must be unique.
        first, *others = rng.sample(SHAPES, count)
        if rng.random() < SHARED_SHAPE:
            if family != "repair":
                others[0] = first
            elif count == 3:
                others[1] = others[0]
        large = rng.randrange(count)
        return [
            Sticker(
                place_figure(rng, self.side, colour, shape, place, LARGE if i == large else SMALL), place, i == large
            )
            for i, (colour, shape, place) in enumerate(zip(colours, (first, *others), places, strict=True))
        ]


def _plan_named(rng: random.Random, split: Split, stickers: Sequence[Sticker]) -> Plan:
    target = stickers[0]
    return Plan(sentence(rng, split, "remove", f"the {target.words}"), (Step(target),))


def _plan_replace(rng: random.Random, split: Split, stickers: Sequence[Sticker]) -> Plan:
    target = stickers[0]
    colour = free_colour(rng, stickers)
    if rng.random() < 0.5:
        step = Step(target, replace(target.figure, colour=colour))
        return Plan(sentence(rng, split, "recolour", f"the {target.words}", colour), (step,))
    # Another shape has a fair size only inside the outline of a circle or a square.
    shape = rng.choice(SHAPES) if target.figure.shape in ("circle", "square") else target.figure.shape
    new = replace(target.figure, colour=colour)
    if shape != new.shape:
        # The largest figure of that shape inside the old outline, but for a pixel at its corners.
        side = int(2 * (new.radius * 1.5 + new.border)) + 3
        depth = replace(new, x=side / 2, y=side / 2).depth(side, side)
        new = replace(new, shape=shape, radius=largest_inside(depth, shape, side / 2, side / 2, new.border))
    step = Step(target, new)
    return Plan(sentence(rng, split, "replace", f"the {target.words}", article(step.new_words)), (step,))


def _plan_look(rng: random.Random, split: Split, stickers: Sequence[Sticker]) -> Plan:
    if rng.random() < 0.5:
        target = next(sticker for sticker in stickers if sticker.is_largest)
        return Plan(sentence(rng, split, "remove", largest(rng)), (Step(target),))
    target = stickers[0]
    return Plan(sentence(rng, split, "remove", f"the sticker in the {target.place}"), (Step(target),))


def _plan_two_step(rng: random.Random, split: Split, stickers: Sequence[Sticker]) -> Plan:
    one, two = rng.sample(list(stickers), 2)
    colour = free_colour(rng, stickers)
    unique = sum(sticker.figure.shape == two.figure.shape for sticker in stickers) == 1
    two_words = f"the {two.figure.shape if unique and rng.random() < 0.5 else two.words}"
    removal = (("remove", (f"the {one.words}",)), Step(one))
    recolour = (("recolour", (two_words, colour)), Step(two, replace(two.figure, colour=colour)))
    first, second = (removal, recolour) if rng.random() < 0.5 else (recolour, removal)
    return Plan(double_sentence(rng, split, first[0], second[0]), (first[1], second[1]))


def _plan_repair(rng: random.Random, split: Split, stickers: Sequence[Sticker]) -> Plan:
    target = stickers[0]
    colour, shape = target.figure.colour, target.figure.shape
    by_shape = shape in SYNONYMS and rng.random() < 0.25
    said = f"{colour} {SYNONYMS[shape]}" if by_shape else f"{SYNONYMS[colour]} {shape}"
    return Plan(sentence(rng, split, "remove", f"the {said}"), (Step(target),), said)


_PLANS = {
    "named": _plan_named,
    "replace": _plan_replace,
    "look": _plan_look,
    "two_step": _plan_two_step,
    "repair": _plan_repair,
}
