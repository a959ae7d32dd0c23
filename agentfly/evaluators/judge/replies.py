"""Read ratings and feedback from a judge's reply, whatever surrounds its JSON, or say why there are none."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import json_repair

from agentfly.evaluators.guarded import PassingFault
from agentfly.evaluators.judge.schemes import Question
from agentfly.messages import without_thoughts

_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*(\d+)\s*)?")


class BrokenReply(PassingFault):
    """A reply without ratings: malformed, cut off, or a refusal. The next one may be good."""


@dataclass(frozen=True)
class Ratings:
    """What a reply says: ratings as given (0 to the question's highest), and the words."""

    values: dict[str, float]
    feedback: str


def read_reply(text: str, question: Question) -> Ratings:
    """Ratings and feedback of a reply.

    Raises:
        BrokenReply: no JSON object, a key is missing, or a rating is no number of the scale. Nothing is guessed, and
            nothing out of range is clipped.
    """
    # Reasoning in the reply may hold drafts of the answer.
    wanted = {"feedback", *question.ratings}
    found = [item for item in _objects(without_thoughts(text)) if wanted <= item.keys()]
    if not found:
        raise BrokenReply(f"no JSON object with {', '.join(sorted(wanted))} in the reply {_shown(text)}")
    item = found[-1]
    feedback = item["feedback"]
    if not isinstance(feedback, str):
        raise BrokenReply(f"the feedback is {type(feedback).__name__}, not text")
    return Ratings({name: _rating(name, item[name], question.highest) for name in question.ratings}, feedback.strip())


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text; with small faults mended only where none is whole."""
    decoder, position, whole = json.JSONDecoder(), text.find("{"), False
    while position >= 0:
        try:
            item, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            position = text.find("{", position + 1)
            continue
        whole = True
        yield item
        position = text.find("{", end)
    start, end = text.find("{"), text.rfind("}")
    # Without its closing brace a reply was cut off: what a repair would make of it is a guess.
    if not whole and 0 <= start < end:
        mended = json_repair.loads(text[start : end + 1])
        if isinstance(mended, dict):
            yield mended


def _rating(name: str, value: Any, highest: int) -> float:
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        if match is not None and match[2] in (None, str(highest)):
            value = float(match[1])
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BrokenReply(f"{name} is {_shown(str(value))}, which is no number")
    if not 0 <= value <= highest:
        raise BrokenReply(f"{name} is {value:g}, which is not from 0 to {highest}")
    return float(value)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:117]}...")
