"""Graded edits of the sticker and retouch worlds: results whose order is known because the worlds made them.

Of a sticker task there are: the wanted image; half of the edit (of two steps the first, else one half of the object);
the edit on another sticker; the edit at an empty place; and the wanted image with a part of another photograph pasted
over what should have stayed, growing. Of a retouch task: the wanted amount, half of it, one and a half of it, twice of
it, the opposite, and the same damage.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentfly.datasets import EditTask, StickerWorld
from agentfly.datasets.photos import background
from agentfly.datasets.retouch_tasks import adjusted
from agentfly.datasets.sticker_layout import Step, edited
from agentfly.datasets.stickers import Scene
from agentfly.evaluation.calibration.attacks import Attack, Subject, moved
from agentfly.evaluation.calibration.cases import Item, Kind, Material, Pair
from agentfly.evaluators import EditSample
from agentfly.images import load_image, load_mask

Pixels = NDArray[np.uint8]

STICKER_FAMILIES, RETOUCH_FAMILIES = ("named", "replace", "two_step"), ("exposure", "cast")
DAMAGE: Mapping[str, float] = {"damage 2 %": 0.02, "damage 6 %": 0.06, "damage 15 %": 0.15}  # shares of the image
# Known worths; of the other grades only the order is known.
WORTHS: Mapping[str, float] = {"right": 1.0, "half": 0.5, "wrong object": 0.0, "wrong place": 0.0, "opposite": 0.0}
# Each better than the next: the orders that hold whatever one values.
ORDERS: Sequence[tuple[str, ...]] = (
    ("right", "half"),
    ("right", "wrong object"),
    ("right", "wrong place"),
    ("right", "opposite"),
    ("half", "wrong object"),
    ("half", "wrong place"),
    ("half", "opposite"),
    ("right", *DAMAGE),
    ("right", "1.5 × too much", "2 × too much"),
)


def built_in_material(tasks: int, seed: int, attacks: Mapping[str, Attack], side: int = 168) -> Material:
    """Return the graded edits of held-out tasks, and every attack on each of them.

    Args:
        tasks: number of tasks; two of three are of the sticker world.
        seed: of the worlds.
        attacks: by name.
        side: width and height of the images in pixels.
    """
    world, material = StickerWorld(side), Material([], [])
    # Every third task is of the retouch world; the families of each take turns.
    turns = [STICKER_FAMILIES[0], STICKER_FAMILIES[1], RETOUCH_FAMILIES[0]]
    turns += [STICKER_FAMILIES[2], STICKER_FAMILIES[0], RETOUCH_FAMILIES[1]]
    turns += [STICKER_FAMILIES[1], STICKER_FAMILIES[2], RETOUCH_FAMILIES[0]]
    for number in range(tasks):
        family, index = turns[number % len(turns)], number
        task, scene = world.task(index, "heldout", family, seed), world.scene(index, "heldout", family, seed)
        rng = random.Random(f"{seed}/{task.id}")
        other = background(rng, "train", side)
        material = material.joined(_graded(task, scene, other)).joined(_attacked(task, attacks, other, rng))
    return material


def _graded(task: EditTask, scene: Scene, other: Image.Image) -> Material:
    subject = subject_of(task, other, random.Random(task.id))
    grades = dict(_retouch_grades(task, subject) if scene.plan is None else _sticker_grades(task, scene, subject))
    items = [_item(task, "graded", name, result, WORTHS.get(name)) for name, result in grades.items()]
    source = "retouch" if scene.plan is None else "stickers"
    pairs = []
    for order in ORDERS:
        for better, worse in itertools.pairwise(order):
            if better in grades and worse in grades:
                ids = f"{task.id}/{better}", f"{task.id}/{worse}"
                pairs.append(Pair(*ids, 1.0, source, f"{better} > {worse}", task.id))
    # The better one of a pair must not always be scored first: an evaluator may prefer what comes first.
    random.Random(task.id).shuffle(items)
    return Material(items, pairs)


def _attacked(task: EditTask, attacks: Mapping[str, Attack], other: Image.Image, rng: random.Random) -> Material:
    subject = subject_of(task, other, rng)
    results = {name: make(subject) for name, make in attacks.items()}
    return Material([_item(task, "attack", name, result) for name, result in results.items()], [])


def subject_of(task: EditTask, other: Image.Image, rng: random.Random) -> Subject:
    """Return a task with its images opened.

    Args:
        task: with target and mask.
        other: another image.
        rng: source of randomness.
    """
    assert task.target is not None
    assert task.mask is not None
    source, target = load_image(task.images[0]), load_image(task.target)
    return Subject(task.instruction, source, target, load_mask(task.mask), other.resize(source.size), rng)


def _item(task: EditTask, kind: Kind, name: str, result: Image.Image, worth: float | None = None) -> Item:
    assert task.target is not None
    assert task.mask is not None
    sample = EditSample(
        task.instruction,
        load_image(task.images[0]),
        result,
        load_image(task.target),
        load_mask(task.mask),
        task.metadata,
    )
    return Item(f"{task.id}/{name}", kind, task.id, name, lambda: sample, worth)


def _sticker_grades(task: EditTask, scene: Scene, subject: Subject) -> Iterator[tuple[str, Image.Image]]:
    assert scene.plan is not None
    yield "right", subject.target
    steps = scene.plan.steps
    if len(steps) > 1:
        yield "half", _drawn(scene, steps[:1])
    else:
        yield "half", _half(subject)
        free = [sticker for sticker in scene.stickers if sticker != steps[0].sticker]
        new = steps[0].new
        # The same change of another sticker: it goes, or takes the new colour.
        yield "wrong object", _drawn(scene, [Step(free[0], new and replace(free[0].figure, colour=new.colour))])
    yield "wrong place", moved(subject)
    yield from _damaged(subject)


def _retouch_grades(task: EditTask, subject: Subject) -> Iterator[tuple[str, Image.Image]]:
    action, amount = task.metadata["steps"][0]["action"], float(task.metadata["steps"][0]["amount"])
    source, target = np.asarray(subject.source), np.asarray(subject.target)
    yield "right", subject.target
    # Twice of a strong cast is more than one adjustment can do, so that the surplus is a second one.
    grades = {
        "half": (source, 0.5),
        "1.5 × too much": (target, 0.5),
        "2 × too much": (target, 1.0),
        "opposite": (source, -1.0),
    }
    for name, (begun, share) in grades.items():
        yield name, Image.fromarray(adjusted(begun, action, share * amount))
    yield from _damaged(subject)


def _drawn(scene: Scene, steps: Sequence[Step]) -> Image.Image:
    return Image.fromarray(edited(scene.photo, scene.stickers, steps)[1])


def _half(subject: Subject) -> Image.Image:
    """Return the source with the upper half of the wanted change."""
    left, top, right, bottom = subject.mask.getbbox() or (0, 0, *subject.mask.size)
    part = Image.new("L", subject.mask.size)
    part.paste(subject.mask.crop((left, top, right, (top + bottom) // 2)), (left, top))
    return Image.composite(subject.target, subject.source, part)


def _damaged(subject: Subject) -> Iterator[tuple[str, Image.Image]]:
    """Yield the wanted image with growing squares of another photograph in the corner that is farthest from the edit.

    Nothing is pasted over the edit itself, and each square holds the one before, so that the order is certain.
    """
    width, height = subject.target.size
    edit = np.asarray(subject.mask) > 127
    everywhere = bool(edit.all())
    sides = {name: round((share * width * height) ** 0.5) for name, share in DAMAGE.items()}
    largest = max(sides.values())
    corners = {(x, y): edit[_span(y, largest), _span(x, largest)].sum() for y in (0, -1) for x in (0, -1)}
    x, y = min(corners, key=lambda corner: corners[corner])
    for name, side in sides.items():
        shape = np.zeros((height, width), np.uint8)
        shape[_span(y, side), _span(x, side)] = 255
        if not everywhere:
            shape[edit] = 0
        yield name, Image.composite(subject.other, subject.target, Image.fromarray(shape))


def _span(end: int, side: int) -> slice:
    return slice(0, side) if end == 0 else slice(-side, None)
