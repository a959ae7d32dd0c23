"""Texts for pages: long ones are cut, and what cannot be seen is made visible."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentfly.agents.trajectory import plain

MOST_SHOWN = 600  # characters of a text before it is cut
_KEPT = "\n\t"
_LARGEST = 1e100
_SIGNS = {chr(code): chr(0x2400 + code) for code in range(32)} | {"\x7f": "\u2421"}


@dataclass(frozen=True)
class Text:
    """A text that may be cut.

    Attributes:
        shown: its beginning.
        rest: characters that are left out; 0 for none.
        key: number by which the whole text can be asked for; -1 where nothing is left out.
    """

    shown: str
    rest: int = 0
    key: int = -1

    def __bool__(self) -> bool:
        return bool(self.shown)


@dataclass
class Cutter:
    """Cut long texts, and keep the whole ones by number.

    Attributes:
        most: characters of a text that is not cut.
        whole: the texts that were cut, in the order in which they came.
    """

    most: int = MOST_SHOWN
    whole: list[str] = field(default_factory=list)

    def __call__(self, text: str, most: int | None = None) -> Text:
        """Return a text, cut where it is longer than `most` (the cutter's own limit when None)."""
        limit = self.most if most is None else most
        # A few characters more are no reason to cut.
        if len(text) <= limit + limit // 4:
            return Text(visible(text))
        self.whole.append(text)
        return Text(visible(text[:limit]), len(text) - limit, len(self.whole) - 1)


def visible(text: str) -> str:
    """Return a text with its control characters as their Unicode pictures; line feeds and tabs stay."""
    return "".join(
        char
        if (char >= " " and char != "\x7f") or char in _KEPT
        else chr(0x2400 + (ord(char) if char != "\x7f" else 33))
        for char in text
    )


def pretty(value: Any) -> str:
    """Return a JSON value on several lines where it has several entries; a string as it is."""
    if isinstance(value, str):
        return value
    short = _json(value, None)
    nested = isinstance(value, (Mapping, list, tuple)) and len(short) > 80
    return _json(value, 2) if nested else short


def finite(value: object) -> float | None:
    """Return a number; None for anything that is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # Larger ones, and their squares, are beyond what can be computed with.
    return float(value) if abs(value) < _LARGEST else None


def duration(value: object) -> float | None:
    """Return a number of seconds; None for anything that is none."""
    seconds = finite(value)
    return seconds if seconds is not None and seconds >= 0 else None


def _json(value: Any, indent: int | None) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent, default=plain)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
