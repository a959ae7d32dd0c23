"""The expected rating of a judge, from its distribution over all numbers and not only the number that it sampled.

A judge that hesitates between 7 and 8 says one of them; the mean over what it might have said is finer and less noisy
(G-Eval, Liu et al. 2023).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

# Where numbers have less than this share of the probability, the place is not that of a rating.
_LEAST_MASS = 0.5


@dataclass(frozen=True)
class Token:
    """A sampled token and the alternatives at its place, itself among them: texts and log-probs."""

    text: str
    alternatives: tuple[tuple[str, float], ...]


def expected_rating(tokens: Sequence[Token], name: str, highest: int) -> float | None:
    """Mean of a rating over the judge's distribution.

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
    places = _places(tokens, start, end)
    return _expectation(places, "", highest) if places else None


def _places(tokens: Sequence[Token], start: int, end: int) -> list[Token]:
    """Tokens of the characters from start to end and the one after; empty where tokens and characters do not agree."""
    position, found = 0, []
    for token in tokens:
        following = position + len(token.text)
        if start < following and position < end:
            # A token such as `: 8` holds more than the number; its alternatives do as well, and are stripped alike.
            found.append(token)
        elif found:
            return [*found, token]
        position = following
    return found


def _digits(text: str) -> str:
    """The number at the end of a token's text (after a colon, blanks or a quote), "" where there is none."""
    match = re.fullmatch(r'[\s:"]*(\d+)[\s,}"]*', text)
    return match[1] if match else ""


def _expectation(places: Sequence[Token], prefix: str, highest: int) -> float | None:
    """Mean of the numbers that go on from `prefix`, the digits sampled so far."""
    place, rest = places[0], places[1:]
    sampled = _digits(place.text)
    mass = total = stopped = 0.0
    ahead = _expectation(rest, prefix + sampled, highest) if sampled and _goes_on(rest) else None
    for text, logprob in place.alternatives:
        chance, digits = math.exp(logprob), _digits(text)
        if not digits:
            stopped += chance
            continue
        value = _value(prefix, digits, digits == sampled, ahead, _missing(rest), highest)
        if value is not None:
            mass, total = mass + chance, total + chance * value
    if prefix:
        # The number may end before this place.
        return (total + stopped * float(prefix)) / (mass + stopped) if mass + stopped > 0 else None
    return total / mass if mass >= _LEAST_MASS else None


def _goes_on(rest: Sequence[Token]) -> bool:
    """Whether the next place is, or may well be, one more digit."""
    return bool(rest) and any(_is_digits(text) for text, _ in rest[0].alternatives)


def _is_digits(text: str) -> bool:
    return re.fullmatch(r"\d+", text) is not None


def _missing(rest: Sequence[Token]) -> int:
    """How many digits of the sampled number follow."""
    count = 0
    for token in rest:
        if not _is_digits(token.text):
            break
        count += len(token.text)
    return count


def _value(prefix: str, digits: str, is_sampled: bool, ahead: float | None, missing: int, highest: int) -> float | None:
    """The number that an alternative stands for; None where it is off the scale."""
    if is_sampled and ahead is not None:
        return ahead
    number = float(prefix + digits)
    if missing and not is_sampled:
        # The middle of the numbers that begin like this and are as long as the sampled one.
        longer = number * 10**missing + (10**missing - 1) / 2
        if longer <= highest:
            return longer
    return number if number <= highest else None
