"""Ask about a text that is longer than a model's context: read it part by part, with a summary that is passed on.

The scheme is that of Chain of Agents (Zhang et al., 2024): workers read the parts in order, each with what is known so
far, and the last call answers from the final summary alone.

`split` cuts the text into parts of a limited number of tokens, each of which begins with the end of the one before.
Parts are slices of the text, so nothing is lost and nothing is decoded. A part ends at the end of a paragraph, a
sentence or a word, if there is one near enough.
"""

from __future__ import annotations

import logging
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentfly.agents.llm_backends import LLMBackend
from agentfly.errors import BackendError, ConfigError, MissingExtraError
from agentfly.messages import without_thoughts
from agentfly.model_source import find_model
from agentfly.systems.text.agents import BasicAgent
from agentfly.systems.text.model import BackendModel, BaseModel, as_model
from agentfly.systems.text.replies import make_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_READ = """A long text is read in {count} parts, to do this in the end:
---
{task}
---
What is known from the parts before:
---
{summary}
---
Part {number} of {count}:
---
{text}
---
Write the summary anew: keep all that is known and matters for the task, and add what this part tells. Write the \
summary only."""
_ANSWER = """A long text was read part by part. What it says, as far as it matters:
---
{summary}
---
Do this from it, and say so where it does not tell:
{task}"""
# A function that returns the index of the first character of each token of a text.
TokenStarts = Callable[[str], Sequence[int]]
# Shorter pieces than those of the usual vocabularies, so that an estimate errs on the side of too many tokens.
_PIECE = re.compile(r"\s{0,8}(?:[A-Za-z]{1,6}|\d{1,3}|\w|[^\w\s])|\s{1,8}")
# Ends of paragraphs, sentences and words. The space after an end belongs to the next part, as in most tokenizers.
_ENDS = (re.compile(r"(?=\n\s*\n)"), re.compile(r"[.!?][\"')\]]*(?=\s)|[。！？]"), re.compile(r"(?=\s)"))
# A part may be shorter than allowed by this share, to end at the end of a paragraph, a sentence or a word.
_GIVE = 0.25


@dataclass(frozen=True)
class ChainStep:
    """One call of the chain.

    Attributes:
        number: 1 for the first part; the answer comes last.
        chunk: the part that was read; None for the answer.
        reply: of the model, with its reasoning.
        text: the reply without the reasoning, which is passed on.
        seconds: duration of the call.
    """

    number: int
    chunk: Chunk | None
    reply: str
    text: str
    seconds: float


class ChainOfAgents:
    """A system that reads a long text in parts and answers from the summary.

    Args:
        system_id: name of the system.
        model: a model, or any LLM backend.
        chunk_size: tokens of a part at most.
        chunk_overlap: tokens at most that a part has in common with the one before.
        tokenizer: counts the tokens: a Hugging Face tokenizer, or its folder or hub name. None takes the backend's own
            tokenizer if it has one, else a careful estimate.
        summary_tokens: tokens of a summary at most; None leaves it to the call's `max_tokens`.

    Attributes:
        steps: of the run that began last, even if it failed.

    Raises:
        ConfigError: the sizes do not go together, or the tokenizer does not exist.
    """

    def __init__(
        self,
        system_id: str,
        model: BaseModel | LLMBackend,
        *,
        chunk_size: int = 2000,
        chunk_overlap: int = 200,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        summary_tokens: int | None = None,
    ) -> None:
        self.system_id = system_id
        self.model = as_model(model)
        self.processing_agent = BasicAgent(f"{system_id}-reader", self.model)
        self.chunk_size, self.chunk_overlap = chunk_size, chunk_overlap
        self.summary_tokens = summary_tokens
        self.steps: list[ChainStep] = []
        if tokenizer is None and isinstance(self.model, BackendModel) and self.model.backend.codec is not None:
            tokenizer = self.model.backend.codec.tokenizer
        self._starts = estimated_starts if tokenizer is None else tokenizer_starts(tokenizer)
        split("", chunk_size, chunk_overlap)

    async def run(
        self, initial_prompt: str, long_text: str, *, output_dir: str | Path | None = None, **kwargs: object
    ) -> str:
        """Return the answer to a prompt about a long text.

        Args:
            initial_prompt: question or task about the text.
            long_text: of any length.
            output_dir: folder for the steps, written as they come: `part_1.txt`, ..., `answer.txt`.
            kwargs: of every call; see `BaseModel.call_stream`.

        Raises:
            BackendError: a call failed; the message names it, and `steps` has those before it.
            ConfigError: the text is empty.
        """
        if not long_text.strip():
            raise ConfigError("long_text is empty: give BasicAgent the prompt alone")
        folder = None if output_dir is None else make_folder(output_dir)
        steps: list[ChainStep] = []
        self.steps = steps
        chunks = split(long_text, self.chunk_size, self.chunk_overlap, self._starts)
        summary = "nothing yet"
        limit = {} if self.summary_tokens is None else {"max_tokens": self.summary_tokens}
        for number, chunk in enumerate(chunks, 1):
            prompt = _READ.format(
                task=initial_prompt, summary=summary, text=chunk.text, number=number, count=len(chunks)
            )
            file = None if folder is None else folder / f"part_{number}.txt"
            step = await self._step(number, chunk, f"part {number} of {len(chunks)}", prompt, file, {**kwargs, **limit})
            steps.append(step)
            # A reply of reasoning alone must not wipe out the summary.
            summary = step.text or summary
        prompt = _ANSWER.format(task=initial_prompt, summary=summary)
        file = None if folder is None else folder / "answer.txt"
        steps.append(await self._step(len(chunks) + 1, None, "the answer", prompt, file, kwargs))
        return steps[-1].reply

    async def _step(
        self, number: int, chunk: Chunk | None, name: str, prompt: str, file: Path | None, options: dict[str, object]
    ) -> ChainStep:
        started = time.monotonic()
        try:
            reply = await self.processing_agent.run(prompt, output_path=file, **options)
        except BackendError as fault:
            raise BackendError(f"{self.system_id}, {name}: {fault}", retryable=fault.retryable) from fault
        seconds = time.monotonic() - started
        logger.info("%s: %s in %.1f s", self.system_id, name, seconds)
        return ChainStep(number, chunk, reply, without_thoughts(reply), seconds)


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
