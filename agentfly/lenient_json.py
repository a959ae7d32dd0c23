"""Read JSON from models and servers, who may write anything: objects between words, small slips, fields of any type."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

# Values of a JSON text that is read at once. A million take a second to read, during which the interpreter does nothing
# else, in whatever thread that happens.
MOST_VALUES = 100_000
MAX_DEPTH = 50  # of objects and lists inside each other, in calls and their repair
_MOST_FAILURES = 200  # brackets that begin no JSON
_HIGHEST_COUNT = 10**12

_CONTAINERS = (dict, list, tuple)
_SPACE = re.compile(r"\s*+")
_BEFORE_MEMBER = r"""\s*["'\u201c][\w.-]{1,64}["'\u201d]\s*:"""
_NEXT_MEMBER = re.compile(_BEFORE_MEMBER)
_AFTER_NAME = re.compile(r"\s*:")
_AFTER_VALUE = re.compile(rf"\s*[,\]}}]|{_BEFORE_MEMBER}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*+(?=\s*:)")
_WORD = re.compile(rf"[A-Za-z_][A-Za-z0-9_-]*+(?={_AFTER_VALUE.pattern})")
_NUMBER = re.compile(rf"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?={_AFTER_VALUE.pattern})", re.ASCII)
_CONSTANTS = {
    "true": True,
    "True": True,
    "false": False,
    "False": False,
    "null": None,
    "None": None,
    "NaN": float("nan"),
    "Infinity": float("inf"),
}
_CLOSING = {'"': '"', "'": "'", "\u201c": "\u201d"}
# From a place inside a quoted text to its next quote that is not escaped.
_TO_QUOTE = {quote: re.compile(rf"[^\\{quote}]*+(?:\\.[^\\{quote}]*+)*+", re.DOTALL) for quote in _CLOSING.values()}
_LAST_BRACKETS = re.compile(r"[\]}\s]*")
_ESCAPE = re.compile(r'\\(?:(["\\/bfnrt]|u[0-9a-fA-F]{4})|(.))|"', re.DOTALL)


def count_separators(data: bytes | bytearray) -> int:
    """Count commas and opening brackets: there is one for each value of a JSON text, and base64 has none."""
    return sum(data.count(char) for char in (b",", b"[", b"{"))


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


def read_with_slips(text: str) -> object:
    """Return the value of a JSON object or list that may have small slips, in time that grows with its length.

    The slips are those whose meaning is beyond doubt: quotes of another kind, names without quotes, Python's constants,
    a comma too many at the end, a comma missing between two members, line breaks and pairs of quotes inside a text,
    wrong brackets at the very end. Nothing is guessed, completed or thrown away: a text is read whole or not at all.

    Args:
        text: without space around it. One that does not end in a bracket was cut off, maybe inside a value.

    Raises:
        ValueError: the text cannot be read without doubt.
    """
    if text[:1] not in ("{", "[") or text[-1:] not in ("}", "]"):
        raise ValueError("it is no whole object or list")
    reader = _Reader(text)
    value = reader.value(0)
    if reader.place < len(text) and not _LAST_BRACKETS.fullmatch(text, reader.place):
        raise ValueError(f"there is more text at {reader.place}")
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


def nested_deeper(value: object, depth: int) -> bool:
    """Return True if objects and lists stand inside each other more than `depth` deep, or in a circle."""
    level = {id(value): value} if isinstance(value, _CONTAINERS) else {}
    for _ in range(depth):
        if not level:
            break
        # Each only once: a value may be named in many places.
        level = {id(item): item for outer in level.values() for item in _inside(outer) if isinstance(item, _CONTAINERS)}
    return bool(level)


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


class _Reader:
    """A position that moves through a text; each character is looked at a bounded number of times."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0

    def value(self, depth: int) -> object:
        start = self._peek()
        if start in ("{", "["):
            if depth >= MAX_DEPTH:
                raise ValueError("it is nested too deeply")
            self.place += 1
            return self._members(depth + 1) if start == "{" else self._items(depth + 1)
        if start in _CLOSING:
            return self._quoted(_AFTER_VALUE)
        if number := _NUMBER.match(self.text, self.place):
            self.place = number.end()
            digits = number[0]
            return float(digits) if set(digits) & set(".eE") else int(digits)
        minus = start == "-"
        word = _WORD.match(self.text, self.place + minus)
        if word is None or (minus and word[0] != "Infinity") or word[0] == "undefined":
            raise ValueError(f"there is no value at {self.place}")
        self.place = word.end()
        return -float("inf") if minus else _CONSTANTS.get(word[0], word[0])

    def _members(self, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        while not self._closed("}"):
            if self._peek() in _CLOSING:
                name = self._quoted(_AFTER_NAME)
            elif word := _NAME.match(self.text, self.place):
                name, self.place = word[0], word.end()
            else:
                raise ValueError(f"there is no name at {self.place}")
            self._skip(":")
            found[name] = self.value(depth)
            if self._peek() == ",":
                self.place += 1
            elif not self._at_bracket() and not _NEXT_MEMBER.match(self.text, self.place):
                raise ValueError(f"there is no comma at {self.place}")
        return found

    def _items(self, depth: int) -> list[object]:
        found: list[object] = []
        while not self._closed("]"):
            found.append(self.value(depth))
            if self._peek() == ",":
                self.place += 1
            elif not self._at_bracket():
                raise ValueError(f"there is no comma at {self.place}")
        return found

    def _closed(self, bracket: str) -> bool:
        """Step over the closing bracket. A wrong or missing one is taken for it where only brackets follow."""
        found = self._peek()
        if found == bracket:
            self.place += 1
            return True
        if self._at_bracket() and _LAST_BRACKETS.fullmatch(self.text, self.place):
            self.place = len(self.text)
            return True
        return False

    def _quoted(self, after: re.Pattern[str]) -> str:
        """Return a quoted text. It ends at the first quote that `after` follows; those before it must be in pairs."""
        text, closing = self.text, _CLOSING[self.text[self.place]]
        start, open_pair, place = self.place + 1, False, self.place + 1
        while True:
            match = _TO_QUOTE[closing].match(text, place)
            end = match.end() if match else place
            if end >= len(text) or text[end] != closing:
                raise ValueError(f"the text that begins at {start - 1} does not end")
            place = end + 1
            if after.match(text, place):
                break
            before, behind = text[end - 1], text[place : place + 1]
            if closing == "'" and before.isalpha() and behind.isalpha():
                continue
            open_pair = not open_pair
            if before.isspace() if not open_pair else (before.isalnum() or not behind.isalnum()):
                raise ValueError(f"a quote at {end} is not escaped")
        if open_pair:
            raise ValueError(f"a quote inside the text that begins at {start - 1} is not escaped")
        self.place = place
        plain: object = json.loads(f'"{_ESCAPE.sub(_escaped, text[start:end])}"', strict=False)
        return str(plain)

    def _peek(self) -> str:
        match = _SPACE.match(self.text, self.place)
        self.place = match.end() if match else self.place
        return self.text[self.place : self.place + 1]

    def _at_bracket(self) -> bool:
        return self._peek() in ("}", "]", "")

    def _skip(self, mark: str) -> None:
        if self._peek() != mark:
            raise ValueError(f"there is no {mark!r} at {self.place}")
        self.place += 1


def _escaped(match: re.Match[str]) -> str:
    """Return one escape, or one quote, as JSON has it; an escape that JSON does not know stands for itself."""
    if match[0] == '"':
        return '\\"'
    if match[1] is not None:
        return match[0]
    return "'" if match[2] == "'" else f"\\\\{match[2]}"
