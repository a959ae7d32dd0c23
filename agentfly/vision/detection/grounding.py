"""Read the boxes in the reply of a vision-language model, whatever form it gives them.

Form. Boxes stand under one of the usual names in JSON objects: in a list, line by line, alone, inside of other objects,
several in one object, or as bare lists of numbers. Prose, code fences and thoughts around them do not count. Small
faults of an object are repaired, but never its numbers.

Unit. All boxes of a reply have the same one. The first that applies is taken:

1. Fractions of the sides, where no number is as large as 1.5 and one has a decimal point.
2. Thousandths of the sides in the order y, x, y, x, for boxes under `box_2d`, as Gemini writes them.
3. The unit that was asked for, where every box fits the image. A quarter of a side is allowed beyond each edge.
4. The other one of pixels and thousandths, where every box fits the image in that unit.
5. The unit that was asked for. Boxes outside of the image are then unread.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from agentfly.errors import shortened
from agentfly.lenient_json import find_json, read_with_slips
from agentfly.messages import without_thoughts
from agentfly.vision.detection.boxes import Candidate

Unit = Literal["pixels", "thousandths"]
Corners = tuple[float, float, float, float]

_LONGEST_REPLY = 200_000  # characters
_LONGEST_REPAIRED, _REPAIRED_IN_ALL = 400, 8000  # characters; the time of a repair grows faster than its text
_DEEPEST = 8
_BEYOND = 0.25  # of a side

# All names in lower case, without underscores.
_Y_FIRST = "box2d"
_BOX = (_Y_FIRST, "bbox2d", "bbox", "box", "boundingbox", "bboxes", "boxes", "boundingboxes", "bboxxyxy", "coordinates")
_LABEL = ("label", "labels", "name", "class", "category", "object")
_SCORE = ("score", "scores", "confidence", "probability")
_CORNERS = (
    ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("left", "top", "right", "bottom"),
)
_SIDES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))

_FLAT_OBJECT = re.compile(r"\{[^{}]*\}")
# A name of boxes with a number after it.
_MENTION = re.compile(r"(?:b|bounding_?)?box\w{0,8}[\"']?\s{0,9}[:=][\s\[({\"']{0,20}[-+.\d]", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)")
_BETWEEN_NUMBERS = re.compile(r"[\s,;()\[\]]+")
_SHARE = re.compile(r"([-+]?(?:\d+(?:\.\d*)?|\.\d+))\s*(%?)")


@dataclass(frozen=True)
class Boxes:
    """The boxes of a reply.

    Attributes:
        candidates: in pixels of the whole image.
        unread: the first thing that is a box and cannot be read; None where there is none.
        unit: of the numbers, where they were pixels or thousandths; None for others.
    """

    candidates: list[Candidate]
    unread: str | None
    unit: Unit | None


@dataclass(frozen=True)
class _Box:
    label: str
    score: float
    corners: Corners
    y_first: bool
    has_point: bool


def read_boxes(reply: str, caption: str, sent: tuple[int, int], size: tuple[int, int], unit: Unit) -> Boxes | None:
    """Return the boxes of a reply; None where it neither has one nor says in JSON that there is none.

    Args:
        reply: the model's words.
        caption: the prompt, "a cat. a dog."; it is the label of boxes without one.
        sent: width and height in pixels of the image that the model was shown.
        size: width and height in pixels of the whole image.
        unit: of the numbers that the model was asked for.
    """
    text = without_thoughts(reply)
    if len(text) > _LONGEST_REPLY:
        return Boxes([], f"a reply of {len(text)} characters", None)
    phrases = frozenset(phrase.strip() for phrase in caption.split("."))
    read = _Reader(caption.replace(".", "").strip(), phrases)
    values = list(find_json(text))
    for value in values:
        read.walk(value, read.caption)
    mentions = len(_MENTION.findall(text))
    if mentions > read.keys:
        repaired = _Reader(read.caption, phrases)
        for item in _repaired_objects(text):
            repaired.walk(item, read.caption)
        read = max(read, repaired, key=lambda one: one.keys)
        if mentions > read.keys:
            read.skip(text[:200])
    if not read.boxes and read.unread is None and not read.says_none:
        # Lists of numbers in prose count only where nothing else does.
        for value in values:
            read.add_bare(value)
        if not read.boxes and not read.says_none:
            return None
    return _in_pixels(read, sent, size, unit)


def _repaired_objects(text: str) -> Iterator[object]:
    """Yield the objects in a text that hold no other object, repaired where that leaves their numbers as they are."""
    left = _REPAIRED_IN_ALL
    for found in _FLAT_OBJECT.findall(text):
        left -= len(found)
        if len(found) <= _LONGEST_REPAIRED and left >= 0:
            with suppress(ValueError):
                yield read_with_slips(found)


@dataclass
class _Reader:
    """The boxes that were found so far.

    Attributes:
        caption: label of boxes without one.
        phrases: of the prompt; an object may have one of them as the name of its boxes.
        boxes: in the unit of the reply.
        keys: names of boxes that were met.
        unread: the first box that cannot be read.
        says_none: the reply has an empty list, or a box that is null.
    """

    caption: str
    phrases: frozenset[str]
    boxes: list[_Box] = field(default_factory=list)
    keys: int = 0
    unread: str | None = None
    says_none: bool = False

    def skip(self, entry: object) -> None:
        """Note a box that cannot be read."""
        self.unread = self.unread or _shortened(entry)

    def walk(self, value: object, label: str, *, depth: int = 0, inside: bool = False) -> None:
        """Add all boxes that have a name.

        Args:
            value: any JSON.
            label: of boxes without one.
            depth: of the value in the reply.
            inside: the value is in an object, so that bare numbers are a box too.
        """
        if depth > _DEEPEST:
            return
        if isinstance(value, Mapping):
            named = {str(name).lower().replace("_", ""): inner for name, inner in value.items()}
            key = next((name for name in _BOX if name in named), None)
            if key is not None:
                self.keys += 1
                self._add_entry(value, named, key, label, depth)
            elif (corners := _named_corners(named)) is not None:
                self._add(value, [corners], named, label)
            else:
                for name, inner in value.items():
                    own = str(name).lower().strip()
                    self.walk(inner, own if own in self.phrases else label, depth=depth + 1, inside=True)
        elif isinstance(value, list):
            self.says_none |= not value
            corners_of_all = _all_corners(value) if inside and value else None
            if corners_of_all is not None:
                self._add(value, corners_of_all, {}, label)
                return
            for item in value:
                self.walk(item, label, depth=depth + 1, inside=inside)

    def add_bare(self, value: object) -> None:
        """Add the boxes of a list that holds numbers only."""
        corners = _all_corners(value) if isinstance(value, list) and value else None
        if corners is not None:
            self._add(value, corners, {}, self.caption)

    def _add_entry(self, entry: object, named: Mapping[str, object], key: str, label: str, depth: int) -> None:
        given = named[key]
        if given is None or given == [] or given == "":
            self.says_none = True
            return
        if isinstance(given, list) and any(isinstance(item, Mapping) for item in given) and depth < _DEEPEST:
            self.walk(given, label, depth=depth + 1, inside=True)
            return
        corners = _all_corners(given)
        if corners is None:
            self.skip(entry)
            return
        self._add(entry, corners, named, label, y_first=key == _Y_FIRST)

    def _add(
        self,
        entry: object,
        boxes: Sequence[tuple[Corners, bool]],
        named: Mapping[str, object],
        label: str,
        *,
        y_first: bool = False,
    ) -> None:
        """Add the boxes of one entry, which may have one label and one score for all, or a list of them."""
        labels = _for_each(named, _LABEL, len(boxes))
        scores = _for_each(named, _SCORE, len(boxes))
        for (corners, has_point), own, given in zip(boxes, labels, scores, strict=True):
            score = _read_score(given)
            if not any(corners):
                # Models write four zeros for an object that is not there.
                self.says_none = True
            elif score is None:
                self.skip(entry)
            else:
                self.boxes.append(_Box(str(own or label), score, corners, y_first, has_point))


def _for_each(named: Mapping[str, object], names: Sequence[str], count: int) -> list[object]:
    """Return the first of some values for each of `count` boxes."""
    given = next((named[name] for name in names if named.get(name) is not None), None)
    if isinstance(given, list) and len(given) == count:
        return given
    return [given[0] if isinstance(given, list) and len(given) == 1 else given] * count


def _all_corners(value: object, depth: int = 0) -> list[tuple[Corners, bool]] | None:
    """Return all boxes of a value, each with whether it has a decimal point; None where it is anything else."""
    if isinstance(value, Mapping):
        one = _named_corners({str(name).lower().replace("_", ""): inner for name, inner in value.items()})
        return None if one is None else [one]
    if isinstance(value, str):
        numbers = _NUMBER.findall(value)
        value = numbers if not _BETWEEN_NUMBERS.sub("", _NUMBER.sub("", value)) else None
    if not isinstance(value, list) or not value or depth > _DEEPEST:
        return None
    corners = _four(value)
    if corners is None and len(value) == 2 and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        corners = _four([*value[0], *value[1]])
    if corners is not None:
        return [corners]
    found: list[tuple[Corners, bool]] = []
    for item in value:
        inner = _all_corners(item, depth + 1) if isinstance(item, (list, Mapping)) else None
        if inner is None:
            return None
        found += inner
    return found


def _named_corners(named: Mapping[str, object]) -> tuple[Corners, bool] | None:
    for names in _CORNERS:
        if all(name in named for name in names):
            return _four([named[name] for name in names])
    for names in _SIDES:
        if all(name in named for name in names):
            read = _four([named[name] for name in names])
            if read is not None:
                (x, y, width, height), has_point = read
                return (x, y, x + width, y + height), has_point
    return None


def _four(values: Sequence[object]) -> tuple[Corners, bool] | None:
    """Return four numbers, which may be given as text, and whether one has a decimal point."""
    if len(values) != 4:
        return None
    numbers, has_point = [], False
    for value in values:
        if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
            has_point |= "." in value
            value = float(value)
        elif isinstance(value, float):
            has_point = True
        elif not isinstance(value, int) or isinstance(value, bool) or abs(value) > 1e9:
            return None
        if not math.isfinite(value):
            return None
        numbers.append(float(value))
    return (numbers[0], numbers[1], numbers[2], numbers[3]), has_point


def _read_score(given: object) -> float | None:
    """Return a score from 0 to 1, which is 1 where none is given; None where it is no number."""
    if given is None or given == "":
        return 1.0
    percent = False
    if isinstance(given, str):
        match = _SHARE.fullmatch(given.strip())
        if match is None:
            return None
        given, percent = float(match[1]), bool(match[2])
    if isinstance(given, bool) or not isinstance(given, (int, float)) or given != given:
        return None  # `math.isnan` does not take a whole number of hundreds of digits
    return min(1.0, max(0.0, given / 100 if percent else given))


def _in_pixels(read: _Reader, sent: tuple[int, int], size: tuple[int, int], unit: Unit) -> Boxes:
    """Return the boxes in pixels of the whole image, by the rule of this module."""
    sides: dict[Unit, tuple[int, int]] = {"pixels": sent, "thousandths": (1000, 1000)}
    fractions = all(abs(number) < 1.5 for box in read.boxes for number in box.corners)
    fractions = fractions and any(box.has_point for box in read.boxes)
    plain = [box for box in read.boxes if not box.y_first]
    other: Unit = "thousandths" if unit == "pixels" else "pixels"
    if not all(_fits(box, sides[unit]) for box in plain) and all(_fits(box, sides[other]) for box in plain):
        unit = other
    candidates = []
    for box in read.boxes:
        across, down = (1, 1) if fractions else sides["thousandths" if box.y_first else unit]
        if box.y_first and not fractions and not _fits(box, (across, down)):
            read.skip(box.corners)
            continue
        a, b, c, d = box.corners
        x0, y0, x1, y1 = (b, a, d, c) if box.y_first else (a, b, c, d)
        left, right = (x * size[0] / across for x in sorted((x0, x1)))
        top, bottom = (y * size[1] / down for y in sorted((y0, y1)))
        candidates.append(Candidate(box.label, box.score, (left, top, right, bottom)))
    return Boxes(candidates, read.unread, unit if plain and not fractions else None)


def _fits(box: _Box, sides: tuple[int, int]) -> bool:
    limits = (*reversed(sides), *reversed(sides)) if box.y_first else (*sides, *sides)
    pairs = zip(box.corners, limits, strict=True)
    return all(-_BEYOND * side <= number <= (1 + _BEYOND) * side for number, side in pairs)


def _shortened(entry: object) -> str:
    text = entry if isinstance(entry, str) else json.dumps(entry, default=str)
    return shortened(" ".join(text.split()), 100)
