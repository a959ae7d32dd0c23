"""Colour words and shape words in the prompts of the classical engines."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentfly.vision.shapes import COLOURS, SHAPES

KNOWN = f"colours {', '.join(COLOURS)} and shapes {', '.join(SHAPES)}"

_ARTICLES = frozenset(("a", "an", "the", "all", "any", "every", "each", "of", "and", "or", "with", "one", "ones"))
_NOUNS = frozenset(("sticker", "stickers", "shape", "shapes", "object", "objects", "colour", "color"))
_FILLERS = _ARTICLES | _NOUNS


@dataclass(frozen=True)
class Phrase:
    """Colour and shape words of a noun phrase, and the words that are neither nor filling."""

    colours: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """Colours, then shapes."""
        return self.colours + self.shapes


def read_phrase(text: str) -> Phrase:
    """Read a phrase from a text; a plural counts as its singular."""
    colours, shapes, unknown = [], [], []
    for word in re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", text.lower()):
        singular = word.removesuffix("s")
        if word in COLOURS:
            colours.append(word)
        elif word in SHAPES or singular in SHAPES:
            shapes.append(singular if singular in SHAPES else word)
        elif word not in _FILLERS:
            unknown.append(word)
    return Phrase(_unique(colours), _unique(shapes), _unique(unknown))


def read_phrases(text: str) -> list[Phrase]:
    """Read the phrases of a detection prompt, separated by full stops, commas or "and"."""
    parts = (part for part in re.split(r"[.,;]|\band\b", text) if part.strip())
    return [read_phrase(part) for part in parts]


def _unique(words: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
