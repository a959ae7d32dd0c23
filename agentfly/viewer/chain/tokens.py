"""The token stream of a chain: sampled tokens one by one, what the policy was given in runs, images at their places.

Shades are classes by number, since pages have no inline styles: a log-prob has one of eight, an advantage one of seven.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agentfly.agents.token_check import TokenTrace
from agentfly.agents.trajectory import Trajectory
from agentfly.viewer.chain.view import Shot
from agentfly.viewer.chain.vocabulary import Vocabulary
from agentfly.viewer.chain.words import Text, finite, visible

# Probabilities from which on a token has the shade of this place; the last shade is for those below.
_SHADES = (0.99, 0.9, 0.7, 0.5, 0.25, 0.1, 0.01)
UNKNOWN = "x"
_MOST_GIVEN = 1600  # characters of a run that the policy was given
_MARKS = {"\n": "↵\n", "\t": "⇥\t", "\r": "␍"}


@dataclass(frozen=True)
class Token:
    """A sampled token.

    Attributes:
        text: visible text.
        id: in the vocabulary.
        shade: "0" (certain) to "7" (improbable), "x" where there is no log-prob.
        logprob: in words.
        sampled: as the mask says, which decides if the token is trained on.
        special: it has a meaning of its own in a conversation.
    """

    text: str
    id: int
    shade: str
    logprob: str
    sampled: bool
    special: bool


@dataclass(frozen=True)
class Given:
    """Tokens that the policy did not sample: `text` of `count` tokens."""

    text: Text
    count: int


@dataclass(frozen=True)
class ImageRun:
    """The placeholders of an image: `count` tokens. `shot` is None where it is not known which image it is."""

    shot: Shot | None
    count: int


@dataclass(frozen=True)
class TurnTokens:
    """The tokens of a turn.

    Attributes:
        sampled: one by one; empty without a vocabulary.
        count: of sampled tokens.
        observed: what follows them, up to the next turn.
        mean: mean log-prob of the sampled tokens; None where there is none.
        shade: of the mean, see `Token`.
    """

    sampled: tuple[Token, ...]
    count: int
    observed: tuple[Given | ImageRun, ...]
    mean: float | None
    shade: str


@dataclass(frozen=True)
class TokenStream:
    """All tokens of a chain.

    Attributes:
        prompt: before the first turn.
        prompt_count: its tokens, those of images among them.
        turns: one a generation.
        lengths: tokens of each image by its handle, where they are known.
        problem: the reason for which the texts are doubtful; "" for none.
    """

    prompt: tuple[Given | ImageRun, ...]
    prompt_count: int
    turns: tuple[TurnTokens, ...]
    lengths: dict[str, int] = field(default_factory=dict)
    problem: str = ""


def token_stream(trajectory: Trajectory, vocabulary: Vocabulary | None) -> TokenStream | None:
    """Return the token stream of a chain; None for a chain without ids.

    Args:
        trajectory: of the chain; its spans and arrays need not fit.
        vocabulary: of the policy; without it only counts and shades of turns are known.
    """
    trace = trajectory.tokens
    if trace is None:
        return None
    ids, reader = trace.response_ids, _Reader(trajectory, vocabulary)
    prompt = tuple(reader.given(trace.prompt_ids))
    turns: list[TurnTokens] = []
    place, problem = 0, ""
    spans = [(turn.start, turn.end) for turn in trajectory.turns]
    for number, (start, end) in enumerate(spans):
        if not place <= start <= end <= len(ids):
            problem = "the spans of the turns do not fit the ids"
            start, end = min(max(place, start), len(ids)), min(max(place, start, end), len(ids))
        following = spans[number + 1][0] if number + 1 < len(spans) else len(ids)
        place = min(max(end, following), len(ids))
        turns.append(_turn(trace, start, end, tuple(reader.given(ids[end:place])), vocabulary))
    if vocabulary is not None and not problem:
        problem = _doubt(trajectory, vocabulary)
    return TokenStream(prompt, len(trace.prompt_ids), tuple(turns), reader.lengths, problem or reader.problem)


def shade_of(logprob: float | None) -> str:
    """Return the shade of a log-prob, see `Token`."""
    if logprob is None:
        return UNKNOWN
    return str(next((i for i, least in enumerate(_SHADES) if logprob >= math.log(least)), len(_SHADES)))


def advantage_shade(value: float | None) -> str:
    """Return the shade of an advantage: "-3" to "3", "x" where it is not known."""
    if value is None:
        return UNKNOWN
    level = sum(abs(value) >= edge for edge in (0.05, 0.5, 1.2))
    return str(-level if value < 0 else level)


class _Reader:
    """Reads runs of ids that were given, and hands out the images of the chain in their order."""

    def __init__(self, trajectory: Trajectory, vocabulary: Vocabulary | None) -> None:
        self._vocabulary = vocabulary
        self._pad = None if vocabulary is None else vocabulary.image_id
        names = {handle: name for name, handle in trajectory.names.items()}
        self._images = [Shot(handle, names.get(handle, "")) for handle in trajectory.images]
        self._next, self.lengths, self.problem = 0, dict[str, int](), ""

    def given(self, ids: Sequence[int]) -> Iterator[Given | ImageRun]:
        """Yield runs of text and of images."""
        place = 0
        while place < len(ids):
            is_image, end = self._is_image(ids[place]), place + 1
            while end < len(ids) and self._is_image(ids[end]) is is_image:
                end += 1
            yield self._image(end - place) if is_image else self._text(ids[place:end])
            place = end

    def _is_image(self, number: int) -> bool:
        return self._pad is not None and number == self._pad

    def _image(self, count: int) -> ImageRun:
        shot = self._images[self._next] if self._next < len(self._images) else None
        self._next += 1
        if shot is None:
            self.problem = "there are more images in the ids than in the conversation"
        else:
            self.lengths[shot.handle] = count
        return ImageRun(shot, count)

    def _text(self, ids: Sequence[int]) -> Given:
        text = "" if self._vocabulary is None else visible(self._vocabulary.text(ids))
        return Given(Text(text[:_MOST_GIVEN], max(0, len(text) - _MOST_GIVEN)), len(ids))


def _turn(
    trace: TokenTrace, start: int, end: int, observed: tuple[Given | ImageRun, ...], vocabulary: Vocabulary | None
) -> TurnTokens:
    ids = trace.response_ids[start:end]
    logprobs = [finite(trace.logprobs[place]) if place < len(trace.logprobs) else None for place in range(start, end)]
    known = [value for value in logprobs if value is not None]
    mean = sum(known) / len(known) if known else None
    tokens: list[Token] = []
    for place, name in enumerate(vocabulary.names(ids) if vocabulary is not None else []):
        value, at = logprobs[place], start + place
        sampled = at < len(trace.mask) and trace.mask[at] == 1
        text = _marked(name.text) if not name.special else name.text
        words = "no log-prob" if value is None else f"{value:.3f}"
        tokens.append(Token(text, ids[place], shade_of(value), words, sampled, name.special))
    return TurnTokens(tuple(tokens), len(ids), observed, mean, shade_of(mean))


def _marked(text: str) -> str:
    """Return the text of a token with its white space marked; single spaces before words are seen by the shades."""
    if not text.strip(" "):
        return "␣" * len(text)
    return visible("".join(_MARKS.get(char, char) for char in text))


def _doubt(trajectory: Trajectory, vocabulary: Vocabulary) -> str:
    """Return why the vocabulary is not that of the policy: it does not give the text of the first turn with ids."""
    trace = trajectory.tokens
    for turn in trajectory.turns:
        if trace is not None and 0 <= turn.start < turn.end <= len(trace.response_ids):
            said = vocabulary.text(trace.response_ids[turn.start : turn.end], special=False)
            if said == turn.text:
                return ""
            return "this tokenizer does not give the text of the turns: is it the policy's? Name it with --tokenizer"
    return ""
