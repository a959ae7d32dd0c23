"""Sticker tasks whose answer is a number: the amount of an adjustment, over the whole image.

- `exposure`: brighter or darker by the stops that the sentence states.
- `match`: as bright as the second image, which is the wanted one, mirrored. Not for agents with `flip_image`, which
  makes the wanted image of it.
- `cast`: undo a colour cast. Its direction is stated in half of the sentences, its strength never; the white borders of
  the stickers show both.

The target is the source after the adjustment, computed by `agentfly.vision.retouching`, so the right call gives it
exactly. Metadata has the call (`steps`: action and amount).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from agentfly.datasets.photos import Split
from agentfly.datasets.sticker_layout import Plan, Sticker, described, edited
from agentfly.datasets.task import EditTask
from agentfly.datasets.wording import SECOND_IMAGE, sentence, stops
from agentfly.vision.retouching import adjust_colour, adjust_tone

Pixels = NDArray[np.uint8]

EXPOSURES: tuple[float, ...] = tuple(tenth / 10 for tenth in range(3, 16))  # stops, of both signs
STRENGTHS: tuple[int, ...] = tuple(range(20, 65, 5))  # of a cast, of both signs
# Parameter and sign of the adjustment that makes a cast.
_CASTS: Mapping[str, tuple[str, int]] = MappingProxyType(
    {"warm": ("temperature", 1), "cold": ("temperature", -1), "green": ("tint", -1), "magenta": ("tint", 1)}
)
_NAMED = 0.5
# The whole image changes, by a little: a difference that a person sees side by side counts.
_SCALE = {"inside_tolerance": 1.0, "lightness_weight": 1.0}


def adjusted(pixels: Pixels, action: str, amount: float) -> Pixels:
    """Return pixels (H, W, 3) after one adjustment.

    Args:
        pixels: RGB.
        action: "exposure", "temperature" or "tint".
        amount: stops, or as `adjust_colour` takes it.
    """
    if action == "exposure":
        return np.asarray(adjust_tone(pixels, exposure=amount), np.uint8)
    return np.asarray(adjust_colour(pixels, **{action: amount}), np.uint8)


def _exposure(rng: random.Random, split: Split, scene: Pixels) -> tuple[Pixels, str, str, float]:
    amount = rng.choice(EXPOSURES) * rng.choice((1, -1))
    text = sentence(rng, split, "expose", stops(amount), "brighter" if amount > 0 else "darker")
    return scene, text, "exposure", amount


def _match(rng: random.Random, split: Split, scene: Pixels) -> tuple[Pixels, str, str, float]:
    amount = rng.choice(EXPOSURES) * rng.choice((1, -1))
    return scene, sentence(rng, split, "match", SECOND_IMAGE), "exposure", amount


def _cast(rng: random.Random, split: Split, scene: Pixels) -> tuple[Pixels, str, str, float]:
    name = rng.choice(list(_CASTS))
    action, sign = _CASTS[name]
    strength = sign * rng.choice(STRENGTHS)
    text = sentence(rng, split, "uncast", name if rng.random() < _NAMED else "colour")
    return adjusted(scene, action, strength), text, action, -strength


RETOUCH_PLANS: Mapping[str, Callable[[random.Random, Split, Pixels], tuple[Pixels, str, str, float]]] = (
    MappingProxyType({"exposure": _exposure, "match": _match, "cast": _cast})
)


def retouch_task(
    identity: str, family: str, rng: random.Random, split: Split, photo: Pixels, stickers: Sequence[Sticker]
) -> EditTask:
    """Return a task of one of `RETOUCH_PLANS`.

    Args:
        identity: of the task.
        family: its type.
        rng: source of randomness.
        split: of the sentence.
        photo: RGB (H, W, 3).
        stickers: that lie on it.
    """
    source, text, action, amount = RETOUCH_PLANS[family](rng, split, edited(photo, stickers, ())[0])
    target = Image.fromarray(adjusted(source, action, amount))
    more = {"steps": [{"action": action, "amount": amount}], "reference_evaluator": dict(_SCALE)}
    second = (ImageOps.mirror(target),) if family == "match" else ()
    return EditTask(
        id=identity,
        instruction=text,
        images=(Image.fromarray(source), *second),
        target=target,
        mask=Image.new("L", target.size, 255),
        task_type=family,
        metadata=described(family, stickers, Plan(text, (), more=more)),
    )
