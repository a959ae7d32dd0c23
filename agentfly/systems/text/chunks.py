"""Cut a long text into parts that are measured in tokens, each beginning with the end of the one before.

Parts are slices of the text: nothing is lost, nothing is decoded. A part ends at a paragraph, a sentence or a word, if
one ends near enough.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentfly.errors import ConfigError, MissingExtraError
from agentfly.model_source import find_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Where each token of a text begins, as an index of characters.
TokenStarts = Callable[[str], Sequence[int]]

# Shorter pieces than the usual vocabularies have, so that an estimate errs on the side of too many tokens.
_PIECE = re.compile(r"\s{0,8}(?:[A-Za-z]{1,6}|\d{1,3}|\w|[^\w\s])|\s{1,8}")
# Ends of paragraphs, sentences and words. The space behind them belongs to what follows, as most tokenizers have it.
_ENDS = (re.compile(r"(?=\n\s*\n)"), re.compile(r"[.!?][\"')\]]*(?=\s)|[。！？]"), re.compile(r"(?=\s)"))
# A part may be this share shorter than allowed, to end where the text has an end.
_GIVE = 0.25


@dataclass(frozen=True)
class Chunk:
    """A part of a text: characters `start` to `end` (exclusive), and how many tokens they are."""

    text: str
    start: int
    end: int
    tokens: int


def estimated_starts(text: str) -> list[int]:
    """Where tokens begin by a careful guess that needs no tokenizer: more of them than most tokenizers make."""
    return [match.start() for match in _PIECE.finditer(text)]


def tokenizer_starts(tokenizer: str | PreTrainedTokenizerBase) -> TokenStarts:
    """Where the tokens of a Hugging Face tokenizer begin.

    Args:
        tokenizer: folder or hub name, or the tokenizer itself; a fast one.

    Raises:
        ConfigError: there is no such tokenizer, or it is a slow one, which knows no positions.
        MissingExtraError: transformers is not installed.
    """
    found: Any = _load(tokenizer) if isinstance(tokenizer, str) else tokenizer
    if not found.is_fast:
        raise ConfigError(f"{type(found).__name__} gives no positions: use a fast tokenizer, or none for an estimate")

    def starts(text: str) -> list[int]:
        encoded = found(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [int(start) for start, _ in encoded["offset_mapping"]]

    return starts


def split(text: str, size: int, overlap: int, starts: TokenStarts = estimated_starts) -> list[Chunk]:
    """Parts of a text.

    Args:
        text: any.
        size: tokens of a part at most.
        overlap: tokens at the end of a part with which the next one begins, at most.
        starts: counts tokens.

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
    """The token at which a part ends: after a paragraph, else a sentence, else a word, else where it is full."""
    least, most = places[begin + size - int(size * _GIVE)], places[begin + size]
    for pattern in _ENDS:
        ends = [match.end() for match in pattern.finditer(text, least, most)]
        if ends:
            return bisect_left(places, ends[-1], begin + 1, begin + size)
    return begin + size


def _begin(text: str, places: Sequence[int], earliest: int, end: int) -> int:
    """The token at which the next part begins: the first sentence, else word, of what both have."""
    for pattern in _ENDS[1:]:
        match = pattern.search(text, places[earliest], places[end])
        if match is not None and match.end() < places[end]:
            return bisect_left(places, match.end(), earliest, end)
    return earliest


def _load(name: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError as fault:
        raise MissingExtraError("counting tokens with a tokenizer", "verl") from fault
    source = find_model(name, "tokenizer_config.json", "a tokenizer")
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as fault:
        raise ConfigError(f"there is no tokenizer {name!r}: give a folder or a name on the hub") from fault
