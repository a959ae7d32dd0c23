"""Sticker tasks in which looking pays.

- `tiny`: three stickers of one shape, too small to name in a reduced image; the one at a place has to go.
- `pale`: two stickers in shades of one colour word. The sentence names a tint, and the shape tells them apart.
- `most`: the shape of which there are the most stickers has to go, all of them.
- `until`: the smallest stickers of a shape have to go until a number of them is left.

Each has one right answer. Metadata has the boxes to look at (`look`), and the edits in the detector's words (`steps`).
"""

from __future__ import annotations

import colorsys
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from agentfly.datasets.photos import Split
from agentfly.datasets.sticker_layout import (
    SMALL,
    Plan,
    Step,
    Sticker,
    cell_box,
    layouts,
    place_figure,
)
from agentfly.datasets.wording import LEFT, most_common, sentence
from agentfly.vision.shapes import COLOURS, SHAPES

_TINY, _TINY_BORDER, _TINY_SHAPES = (6.2, 6.8), 1.8, ("circle", "square")
_PALE, _PALE_BORDER, _PALE_SHAPES = (11.0, 12.0), 2.0, ("circle", "square", "triangle")
# Hues in degrees of two tints of one colour word, as the detector reads it, and how far a shade may be from them.
_TINTS: Mapping[str, tuple[tuple[str, float], tuple[str, float]]] = MappingProxyType(
    {
        "green": (("yellowish", 108.0), ("bluish", 158.0)),
        "blue": (("greenish", 211.0), ("reddish", 246.0)),
        "red": (("bluish", 346.0), ("yellowish", 9.0)),
    }
)
_HUE_SPREAD, _SATURATION, _VALUE = 2.0, (0.48, 0.54), (0.9, 0.97)
# Outer radii of stickers of one shape in `until`, from the smallest; they differ by a quarter at least.
_GRADED = ((10.5, 11.0), (14.5, 15.5), (20.0, 21.5))
# The scores of these families are about the right sticker, not about the texture of a fill.
_SCALE = {"inside_tolerance": 26.0, "outside_tolerance": 16.0}
_PALE_SCALE = {**_SCALE, "inside_tolerance": 23.0}  # a pale sticker is closer to what it hides


def _tiny(rng: random.Random, split: Split, side: int) -> tuple[list[Sticker], Plan]:
    places, shape = _places(rng, split, 3), rng.choice(_TINY_SHAPES)
    colours = rng.sample(list(COLOURS), 3)
    stickers = [
        Sticker(place_figure(rng, side, colour, shape, place, _TINY, border=_TINY_BORDER), place, False)
        for colour, place in zip(colours, places, strict=True)
    ]
    text = sentence(rng, split, "remove", f"the sticker in the {stickers[0].place}")
    return stickers, _plan(side, text, stickers[:1], [stickers[0].figure.colour])


def _pale(rng: random.Random, split: Split, side: int) -> tuple[list[Sticker], Plan]:
    places, shapes = _places(rng, split, 2), rng.sample(_PALE_SHAPES, 2)
    colour = rng.choice(list(_TINTS))
    tints = rng.sample(_TINTS[colour], 2)
    stickers = []
    for place, shape, (_, hue) in zip(places, shapes, tints, strict=True):
        fill = _shade(rng, hue)
        figure = place_figure(rng, side, colour, shape, place, _PALE, border=_PALE_BORDER, fill=fill)
        stickers.append(Sticker(figure, place, False))
    text = sentence(rng, split, "remove", f"the {tints[0][0]} sticker")
    plan = _plan(side, text, stickers[:1], [shapes[0]], stickers)
    return stickers, replace(plan, more={**plan.more, "reference_evaluator": dict(_PALE_SCALE)})


def _most(rng: random.Random, split: Split, side: int) -> tuple[list[Sticker], Plan]:
    count = rng.choice((3, 4))
    often, *others = rng.sample(SHAPES, 3)
    # Two against one, three against one, or two against one and one.
    shapes = [often, often, *(rng.choice(([often, others[0]], others)) if count == 4 else others[:1])]
    stickers = _ordinary(rng, split, side, shapes)
    text = sentence(rng, split, "remove", most_common(rng))
    return stickers, _plan(side, text, [s for s in stickers if s.figure.shape == often], [often], stickers)


def _until(rng: random.Random, split: Split, side: int) -> tuple[list[Sticker], Plan]:
    shape, other = rng.sample(SHAPES, 2)
    left = rng.choice(list(LEFT))
    places, colours = _places(rng, split, 4), rng.sample(list(COLOURS), 4)
    sizes = [*_GRADED, SMALL]
    stickers = [
        Sticker(place_figure(rng, side, colour, kind, place, outer), place, outer is _GRADED[-1])
        for colour, kind, place, outer in zip(colours, [shape] * 3 + [other], places, sizes, strict=True)
    ]
    gone = stickers[: 3 - left]
    text = sentence(rng, split, "until", f"{shape}s", LEFT[left])
    return stickers, _plan(side, text, gone, [sticker.words for sticker in gone], stickers)


LOOK_PLANS: Mapping[str, Callable[[random.Random, Split, int], tuple[list[Sticker], Plan]]] = MappingProxyType(
    {"tiny": _tiny, "pale": _pale, "most": _most, "until": _until}
)


def _plan(side: int, text: str, gone: list[Sticker], words: list[str], seen: list[Sticker] | None = None) -> Plan:
    """Return a plan of removals, with the words that find the stickers and the boxes of those to look at."""
    more = {
        "look": [list(cell_box(side, sticker.place)) for sticker in seen or gone],
        "steps": [{"action": "remove", "detect": word, "new": ""} for word in words],
        "reference_evaluator": dict(_SCALE),
    }
    return Plan(text, tuple(Step(sticker) for sticker in gone), more=more)


def _places(rng: random.Random, split: Split, count: int) -> list[str]:
    places = list(rng.choice(layouts(split, count)))
    rng.shuffle(places)
    return places


def _ordinary(rng: random.Random, split: Split, side: int, shapes: list[str]) -> list[Sticker]:
    """Return small stickers of these shapes, each in a colour of its own."""
    places, colours = _places(rng, split, len(shapes)), rng.sample(list(COLOURS), len(shapes))
    return [
        Sticker(place_figure(rng, side, colour, shape, place, SMALL), place, False)
        for colour, shape, place in zip(colours, shapes, places, strict=True)
    ]


def _shade(rng: random.Random, hue: float) -> tuple[int, int, int]:
    """Return RGB of a pale shade near a hue in degrees."""
    near = (hue + rng.uniform(-_HUE_SPREAD, _HUE_SPREAD)) / 360 % 1.0
    red, green, blue = colorsys.hsv_to_rgb(near, rng.uniform(*_SATURATION), rng.uniform(*_VALUE))
    return round(255 * red), round(255 * green), round(255 * blue)
