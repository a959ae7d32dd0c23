"""Read a judge's reply: ratings and feedback from its text, expected ratings from its log-probs.

A judge that hesitates between 7 and 8 says one of them; the mean over all numbers that it might have said is finer and
less noisy (G-Eval, Liu et al. 2023).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from agentfly.errors import shortened
from agentfly.evaluators.guarded import PassingFault
from agentfly.lenient_json import field_of, find_json, read_with_slips
from agentfly.messages import without_thoughts

_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*(\d+)\s*)?")
# A token that ends with a number, after a colon, blanks or a quote.
_NUMBER_TOKEN = re.compile(r'[\s:"]*(\d+)[\s,}"]*')
# Where numbers have less than this share of the probability, the place is not that of a rating.
_LEAST_MASS = 0.5
_MOST_DIGITS = 8  # more than any scale has
_LEAST_LOGPROB = -1e9
_LONGEST_REPLY = 200_000  # characters
# What a token has around a word of the reply's JSON.
_AROUND = " \t\r\n\"':,{}[]"


class BrokenReply(PassingFault):
    """A reply without ratings: malformed, cut off, or a refusal. The next one may be good."""


@dataclass(frozen=True)
class Ratings:
    """Ratings as given (0 to the question's highest), and the words beside them."""

    values: dict[str, float]
    feedback: str


@dataclass(frozen=True)
class Token:
    """A sampled token and the alternatives at its place, itself among them: texts and log-probs."""

    text: str
    alternatives: tuple[tuple[str, float], ...]


class Rated(Protocol):
    """A question that is answered by numbers."""

    @property
    def ratings(self) -> Mapping[str, str]:
        """The meaning of each number, by its name."""
        ...

    @property
    def highest(self) -> int:
        """Ratings go from 0 to this."""
        ...


def read_object(text: str, wanted: Collection[str]) -> Mapping[str, object]:
    """Return the last JSON object of a reply that has these keys, whatever surrounds it.

    Args:
        text: the whole reply.
        wanted: keys that the object must have.

    Raises:
        BrokenReply: there is none.
    """
    if len(text) > _LONGEST_REPLY:
        raise BrokenReply(f"the reply has {len(text)} characters, {_LONGEST_REPLY} are read")
    # Reasoning in the reply may hold drafts of the answer.
    found = [item for item in _objects(without_thoughts(text)) if set(wanted) <= item.keys()]
    if not found:
        raise BrokenReply(f"no JSON object with {', '.join(sorted(wanted))} in the reply {shortened(text, 120)!r}")
    return found[-1]


def read_words(item: Mapping[str, object], name: str) -> str:
    """Return the text of a key, without blanks around it.

    Args:
        item: of the reply.
        name: of the key.

    Raises:
        BrokenReply: the value is no text.
    """
    value = item[name]
    if not isinstance(value, str):
        raise BrokenReply(f"the {name} is {type(value).__name__}, not text")
    return value.strip()


def read_reply(text: str, question: Rated) -> Ratings:
    """Return ratings and feedback of a reply, whatever surrounds its JSON.

    Args:
        text: the whole reply.
        question: names the ratings and their scale.

    Raises:
        BrokenReply: there is no JSON object, a key is missing, or a rating is not a number of the scale. Nothing is
            guessed, and nothing out of range is clipped.
    """
    item = read_object(text, {"feedback", *question.ratings})
    feedback = read_words(item, "feedback")
    return Ratings({name: _rating(name, item[name], question.highest) for name in question.ratings}, feedback)


def _objects(text: str) -> Iterator[Mapping[str, object]]:
    """Yield the JSON objects in a text; small faults are repaired only where no object is valid."""
    any_valid = False
    for item in find_json(text, "{"):
        if isinstance(item, Mapping):
            any_valid = True
            yield item
    start, end = text.find("{"), text.rfind("}")
    # Without its closing brace a reply was cut off, and a repair would be a guess.
    if not any_valid and 0 <= start < end:
        with suppress(ValueError):
            repaired = read_with_slips(text[start : end + 1])
            if isinstance(repaired, Mapping):
                yield repaired


def _rating(name: str, value: object, highest: int) -> float:
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        if match is not None and match[2] in (None, str(highest)):
            value = float(match[1])
    # A whole number may be too large for `math.isfinite`.
    finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not finite:
        raise BrokenReply(f"{name} is {shortened(str(value), 120)!r}, which is no number")
    if not 0 <= value <= highest:
        given = f"{value:g}" if abs(value) < 1e300 else "a number without end"
        raise BrokenReply(f"{name} is {given}, which is not from 0 to {highest}")
    return float(value)


def read_tokens(logprobs: object) -> list[Token]:
    """Return the tokens of a choice's log-probs, without those that have another form.

    Args:
        logprobs: of the SDK, which checks no types.
    """
    tokens = []
    content = field_of(logprobs, "content")
    for entry in content if isinstance(content, list) else ():
        text, others = field_of(entry, "token"), field_of(entry, "top_logprobs")
        if isinstance(text, str):
            chances = dict(_chances([entry, *(others if isinstance(others, list) else ())]))
            tokens.append(Token(text, tuple(chances.items())))
    return tokens


def _chances(entries: Sequence[object]) -> Iterator[tuple[str, float]]:
    for entry in entries:
        text, logprob = field_of(entry, "token"), field_of(entry, "logprob")
        if isinstance(text, str) and isinstance(logprob, int | float) and logprob == logprob:
            yield text, float(min(0.0, max(_LEAST_LOGPROB, logprob)))


def expected_rating(tokens: Sequence[Token], name: str, highest: int) -> float | None:
    """Return the mean of a rating over the judge's distribution.

        E = sum of p(v) v / sum of p(v), over the alternatives at the rating's place that are numbers v in 0..highest

    A tokenizer that writes one digit a token spreads a number over several places. Then the alternatives of the last
    place complete the digits before, a place at which the number may as well end counts as its end, and an alternative
    first digit stands for the middle of the numbers that begin like this and are as long as the sampled one, where that
    is on the scale.

    Args:
        tokens: the reply as it was sampled.
        name: key of the rating in the reply's JSON.
        highest: ratings go from 0 to this.

    Returns:
        The mean; None where the tokens do not show it (no such key, no whole number, hardly any number there).
    """
    text = "".join(token.text for token in tokens)
    matches = list(re.finditer(rf'"{re.escape(name)}"\s*:\s*(\d+)(?![\d.])', text))
    if not matches:
        return None
    start, end = matches[-1].span(1)
    if end - start > _MOST_DIGITS:
        return None
    # Tokens of the number and the one after it. A token such as `: 8` holds more than the number; so do its
    # alternatives, and all are stripped alike.
    position, places = 0, []
    for token in tokens:
        following = position + len(token.text)
        if following > start:
            places.append(token)
        if position >= end:
            break
        position = following
    return _expectation(places, "", highest)


def chance_of_yes(tokens: Sequence[Token], name: str) -> float | None:
    """Return the judge's probability of "yes" where the reply answers yes or no (VQAScore, arXiv:2404.01291).

        p = P(yes) / (P(yes) + P(no)), over the alternatives at the place of the answer that begin either word

    Args:
        tokens: the reply as it was sampled.
        name: key of the answer in the reply's JSON.

    Returns:
        0 to 1; None where the tokens do not show it (no such key, hardly any yes or no there).
    """
    text = "".join(token.text for token in tokens)
    matches = list(re.finditer(rf'"{re.escape(name)}"\s*:\s*"?\s*(?=[a-z])', text, re.IGNORECASE))
    if not matches:
        return None
    start, position = matches[-1].end(), 0
    for token in tokens:
        position += len(token.text)
        if position > start:
            chances = {"yes": 0.0, "no": 0.0}
            for words, logprob in token.alternatives:
                said = words.strip(_AROUND).lower()
                for answer in chances:
                    if said and answer.startswith(said):
                        chances[answer] += math.exp(logprob)
            mass = sum(chances.values())
            return chances["yes"] / mass if mass >= _LEAST_MASS else None
    return None


def _expectation(places: Sequence[Token], prefix: str, highest: int) -> float | None:
    """Return the mean of the numbers that continue `prefix`, the digits sampled so far."""
    place, rest = places[0], places[1:]
    sampled = _digits(place.text)
    # Only if one more digit is likely enough to be among the alternatives.
    continues = bool(sampled and rest) and any(text.isdecimal() for text, _ in rest[0].alternatives)
    ahead = _expectation(rest, prefix + sampled, highest) if continues else None
    missing = sum(len(token.text) for token in takewhile(lambda token: token.text.isdecimal(), rest))
    mass = total = stopped = 0.0
    for text, logprob in place.alternatives:
        chance, digits = math.exp(logprob), _digits(text)
        if not digits:
            stopped += chance
            continue
        number = float(prefix + digits)
        if digits == sampled and ahead is not None:
            number = ahead
        elif digits != sampled:
            # The middle of the numbers that begin like this and are as long as the sampled one.
            middle = number * 10**missing + (10**missing - 1) / 2
            number = middle if middle <= highest else number
        if number <= highest:
            mass, total = mass + chance, total + chance * number
    if prefix:
        # The number may end before this place.
        return (total + stopped * float(prefix)) / (mass + stopped) if mass + stopped > 0 else None
    return total / mass if mass >= _LEAST_MASS else None


def _digits(text: str) -> str:
    """Return the number in a token's text, "" where there is none."""
    match = _NUMBER_TOKEN.fullmatch(text)
    return match[1] if match else ""
