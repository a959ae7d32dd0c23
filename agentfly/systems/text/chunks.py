"""Cut a long text into parts of a limited number of tokens, each of which begins with the end of the one before.

Parts are slices of the text, so nothing is lost and nothing is decoded. A part ends at the end of a paragraph, a
sentence or a word, if there is one near enough.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentfly.errors import ConfigError, MissingExtraError
from agentfly.model_source import find_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A function that returns the index of the first character of each token of a text.
TokenStarts = Callable[[str], Sequence[int]]

# Shorter pieces than those of the usual vocabularies, so that an estimate errs on the side of too many tokens.
_PIECE = re.compile(r"\s{0,8}(?:[A-Za-z]{1,6}|\d{1,3}|\w|[^\w\s])|\s{1,8}")
# Ends of paragraphs, sentences and words. The space after an end belongs to the next part, as in most tokenizers.
_ENDS = (re.compile(r"(?=\n\s*\n)"), re.compile(r"[.!?][\"')\]]*(?=\s)|[。！？]"), re.compile(r"(?=\s)"))
# A part may be shorter than allowed by this share, to end at the end of a paragraph, a sentence or a word.
_GIVE = 0.25


@dataclass(frozen=True)
class Chunk:
    """A part of a text: characters `start` to `end` (exclusive), and their number of tokens."""

    text: str
    start: int
    end: int
    tokens: int


def estimated_starts(text: str) -> list[int]:
    """Return the starts of tokens by an estimate without a tokenizer, which finds more tokens than most tokenizers."""
    return [match.start() for match in _PIECE.finditer(text)]


def tokenizer_starts(tokenizer: str | PreTrainedTokenizerBase) -> TokenStarts:
    """Return a function that finds the starts of tokens with a Hugging Face tokenizer.

    Args:
        tokenizer: a fast tokenizer, or its folder or hub name.

    Raises:
        ConfigError: the tokenizer does not exist, or is a slow one, which knows no positions.
        MissingExtraError: transformers is not installed.
    """
    if isinstance(tokenizer, str):
        try:
            from transformers import AutoTokenizer
        except ImportError as fault:
            raise MissingExtraError("counting tokens with a tokenizer", "verl") from fault
        source = find_model(tokenizer, "tokenizer_config.json", "a tokenizer")
        try:
            found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as fault:
            raise ConfigError(f"there is no tokenizer {tokenizer!r}: give a folder or a name on the hub") from fault
    else:
        found = tokenizer
    if not found.is_fast:
        raise ConfigError(f"{type(found).__name__} gives no positions: use a fast tokenizer, or none for an estimate")

    def starts(text: str) -> list[int]:
        encoded = found(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [int(start) for start, _ in encoded["offset_mapping"]]

    return starts


def split(text: str, size: int, overlap: int, starts: TokenStarts = estimated_starts) -> list[Chunk]:
    """Cut a text into parts.

    Args:
        text: of any length.
        size: tokens of a part at most.
        overlap: tokens at most at the end of a part that the next one begins with.
        starts: finds the tokens.

    Raises:
        ConfigError: size and overlap do not go together.
    """
    if size < 8 or not 0 <= overlap <= size // 2:
        raise ConfigError(f"parts of {size} tokens with {overlap} in common: use 8 at least, and half of it in common")
    places = sorted(starts(text))
    chunks: list[Chunk] = []
    begin = 0
    while begin + size < len(places):
        end = _end(text, places, begin, size)
        chunks.append(_chunk(text, places, begin, end))
        begin = _begin(text, places, end - overlap, end)
    chunks.append(_chunk(text, places, begin, len(places)))
    return chunks


def _chunk(text: str, places: Sequence[int], begin: int, end: int) -> Chunk:
    start = places[begin] if begin else 0
    stop = places[end] if end < len(places) else len(text)
    return Chunk(text[start:stop], start, stop, end - begin)


def _end(text: str, places: Sequence[int], begin: int, size: int) -> int:
    """Return the token at which a part ends: after a paragraph, else a sentence, else a word, else at its limit."""
    least, most = places[begin + size - int(size * _GIVE)], places[begin + size]
    for pattern in _ENDS:
        ends = [match.end() for match in pattern.finditer(text, least, most)]
        if ends:
            return bisect_left(places, ends[-1], begin + 1, begin + size)
    return begin + size


def _begin(text: str, places: Sequence[int], earliest: int, end: int) -> int:
    """Return the token at which the next part begins: the first sentence, else word, of the overlap."""
    for pattern in _ENDS[1:]:
        match = pattern.search(text, places[earliest], places[end])
        if match is not None and match.end() < places[end]:
            return bisect_left(places, match.end(), earliest, end)
    return earliest
