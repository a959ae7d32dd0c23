"""Ask about a text that is longer than a model's context: read it part by part, with a summary that is passed on.

The scheme is that of Chain of Agents (Zhang et al., 2024): workers read the parts in order, each with what is known so
far, and the last call answers from the final summary alone.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentfly.agents.llm_backends import LLMBackend
from agentfly.errors import BackendError, ConfigError
from agentfly.messages import without_thoughts
from agentfly.systems.text.agents import BasicAgent
from agentfly.systems.text.chunks import Chunk, estimated_starts, split, tokenizer_starts
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
