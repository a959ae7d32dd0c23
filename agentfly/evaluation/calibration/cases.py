"""The material of a calibration: samples to score, and pairs of them whose order is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from agentfly.evaluators import EditSample

Kind = Literal["graded", "attack", "people"]


@dataclass(frozen=True)
class Item:
    """A sample to score.

    Attributes:
        id: unique within the material.
        kind: "graded" and "attack" are of the built-in worlds; "people" is a result that people judged.
        group: of the items that share a task; intervals count each group once.
        name: of the grade or the attack; empty for results that people judged.
        make: returns the sample, so that images of large data sets are opened one at a time. Raises `ImageError`.
        worth: known worth from 0 to 1, by construction or by a person's score; None where only the order is known.
    """

    id: str
    kind: Kind
    group: str
    name: str
    make: Callable[[], EditSample]
    worth: float | None = None


@dataclass(frozen=True)
class Pair:
    """Two items whose order is known.

    Attributes:
        first, second: ids of the items; the better one is not always the first.
        preferred: 1 if the first is better, 0 if the second is, 0.5 where people saw no difference.
        source: where the order is known from: "stickers", "retouch", or the name of the data.
        kind: the comparison that it makes, such as "right > half".
        group: see `Item`.
        comparison: pairs of one comparison of several results share it; empty for a pair that stands alone.
    """

    first: str
    second: str
    preferred: float
    source: str
    kind: str
    group: str
    comparison: str = ""


@dataclass(frozen=True)
class Material:
    """What evaluators are measured on."""

    items: Sequence[Item]
    pairs: Sequence[Pair]

    def joined(self, other: Material) -> Material:
        """Return this material and another one together."""
        return Material([*self.items, *other.items], [*self.pairs, *other.pairs])
