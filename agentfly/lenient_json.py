"""Read JSON from models and servers, who may write anything: objects between words, small slips, fields of any type."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache

import json_repair

_MOST_FAILURES = 200  # brackets that begin no JSON
_LONGEST_REPAIRED = 2000  # characters; the time of a repair grows with the square of its text
_HIGHEST_COUNT = 10**12
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d*)?(?!\w)")
_ESCAPED_SPACE = re.compile(r"\\[nrt]")


def find_json(text: str, brackets: str = "[{") -> Iterator[object]:
    """Yield the outermost JSON values in a text, in time that grows with its length.

    Args:
        text: words, with JSON between them.
        brackets: that the values begin with.
    """
    decoder, failures = json.JSONDecoder(), 0
    opener = _opener(brackets)
    found = opener.search(text)
    while found is not None and failures < _MOST_FAILURES:
        position = found.end()
        try:
            value, position = decoder.raw_decode(text, found.start())
            yield value
        except (ValueError, RecursionError):
            failures += 1
        found = opener.search(text, position)


@cache
def _opener(brackets: str) -> re.Pattern[str]:
    return re.compile(f"[{re.escape(brackets)}]")


def read_lenient(text: str) -> object:
    """Return the value of JSON that may have small slips, such as other quotes or a comma too many.

    Args:
        text: from the opening bracket to the closing one.

    Raises:
        ValueError: it cannot be read, it is too long to be repaired, or a repair would change its numbers.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if len(text) > _LONGEST_REPAIRED:
            raise ValueError(f"it is no JSON, and longer than {_LONGEST_REPAIRED} characters") from None
    try:
        value = json_repair.loads(text)
        numbers = [float(number) for number in _NUMBER.findall(" ".join(_leaves(value)))]
    except RecursionError as fault:
        raise ValueError("it is nested too deeply") from fault
    if numbers != [float(number) for number in _NUMBER.findall(_ESCAPED_SPACE.sub(" ", text))]:
        raise ValueError("a repair would change its numbers")
    return value


def field_of(holder: object, name: str) -> object:
    """Return a field of plain JSON or of an SDK's object; None where it has none.

    Args:
        holder: of the field; the SDK checks no types, so it may be anything.
        name: of the field.
    """
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def count_of(holder: object, name: str) -> int:
    """Return a field that counts something; 0 where it is missing or no count.

    Args:
        holder: of the field, as in `field_of`.
        name: of the field.
    """
    value = field_of(holder, name)
    return int(value) if isinstance(value, int | float) and 0 <= value <= _HIGHEST_COUNT else 0


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield str(value)
