"""Tell the thoughts of a turn (`<think>...</think>`, or the marks of another family) from what the policy says.

A mark inside a JSON string is text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

OPEN = "<tool_call>"
FENCE = re.compile(r"(`{3,}+|~{3,}+)[ \t]*+([\w+-]*+)")
# Values that are read one after the other where a text has them side by side.
MAX_VALUES = 1000

# The marks that begin and end a thought; families may have others (`agentfly.templates.families.Reasoning`).
MARKS = ("<think>", "</think>")
_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder()
# Marks of one text that are looked at more closely; each may take as long as reading the whole text.
_MAX_LOOKS = 32

Span = tuple[int, int]


@dataclass(frozen=True)
class Thoughts:
    """The parts of a text, as spans of it without the marks.

    Attributes:
        spoken: parts outside of thoughts.
        drafted: all other parts.
        answered: there is something after the last thought.
        closes_none: the first mark ends a thought that nothing began.
    """

    spoken: tuple[Span, ...]
    drafted: tuple[Span, ...]
    answered: bool
    closes_none: bool


def split_thoughts(text: str, *, thinking: bool, marks: tuple[str, str] = MARKS) -> Thoughts:
    """Split a text. Where the marks do not pair, only what follows the last end of a thought is spoken.

    Args:
        text: of a turn.
        thinking: it begins inside a thought.
        marks: with which a thought begins and ends.
    """
    if not thinking and marks[0] not in text and marks[1] not in text:
        return Thoughts(((0, len(text)),), (), answered=True, closes_none=False)
    found = _find_marks(text, marks)
    parts = list(zip([0, *(stop for _, stop in found)], [*(start for start, _ in found), len(text)], strict=True))
    opens = [text.startswith(marks[0], start) for start, _ in found]
    # Whether each part is inside a thought, by the mark before it.
    inside = [thinking, *opens]
    if all(before is not after for before, after in zip(inside, opens, strict=False)):
        spoken = {index for index, thought in enumerate(inside) if not thought}
    else:
        spoken = {max((index for index, thought in enumerate(inside) if not thought), default=-1)}
    answered = not inside[-1] and bool(text[slice(*parts[-1])].strip())
    return Thoughts(
        tuple(part for index, part in enumerate(parts) if index in spoken),
        tuple(part for index, part in enumerate(parts) if index not in spoken),
        answered,
        not thinking and opens[:1] == [False],
    )


def _find_marks(text: str, marks: tuple[str, str]) -> list[Span]:
    """Return the marks that stand in no JSON string."""
    either = re.compile("|".join(re.escape(mark) for mark in marks))
    found: list[Span] = []
    start, position, looks = 0, 0, _MAX_LOOKS
    while (mark := either.search(text, position)) is not None:
        position = mark.end()
        end = None
        if looks and text.find("{", start, mark.start()) >= 0:
            looks -= 1
            end = _end_of_object_around(text, mark.start(), start)
        if end is None:
            found.append(mark.span())
            start = position
        else:
            position = end
    return found


def _end_of_object_around(text: str, place: int, start: int) -> int | None:
    """Return the end of the JSON value with a string in which a mark is written; None for a mark that counts."""
    begins = {start}
    for begin in (OPEN, "```", "~~~"):
        if (found := text.rfind(begin, start, place)) >= 0:
            fence = FENCE.match(text, found)
            begins.add(fence.end() if fence else found + len(begin))
    for begin_at in sorted(begins, reverse=True):
        position = skip_space(text, begin_at)
        for _ in range(MAX_VALUES):
            decoded = decode(text, position)
            if decoded is None or decoded[1] > place:
                break
            position = skip_space(text, decoded[1])
        if decoded is not None and position < place < decoded[1]:
            return decoded[1]
    return None


def decode(text: str, position: int) -> tuple[object, int] | None:
    """Return a JSON object or list, and its end; None where there is none."""
    if not text.startswith(("{", "["), position):
        return None
    try:
        return _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError):
        return None


def skip_space(text: str, start: int) -> int:
    """Return the position of the first character from `start` on that is no space."""
    match = _SPACE.match(text, start)
    return match.end() if match else start
