"""The contract between the rollout and a backend, which generates text.

A backend with a `codec` is token-level: the rollout hands it exact prompt ids and it returns exact sampled ids with
their log-probs. A backend without one (`codec is None`) sees messages, and its trajectories say that they are not
token-exact.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from PIL import Image

from agentfly.messages import Message, ToolCall
from agentfly.templates import ChatCodec

FinishReason = Literal["stop", "length", "abort"]
OnDelta = Callable[[str], Awaitable[None]]


@dataclass(frozen=True)
class SamplingParams:
    """Sampling of one turn.

    Attributes:
        temperature: 0 for greedy sampling.
        top_p: nucleus mass.
        max_tokens: tokens of this turn at most.
        seed: makes this request repeatable, on backends that support it.
        extra: further fields that the backend passes on as they are.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationRequest:
    """One turn to generate.

    Attributes:
        request_id: unique for this turn; `session_id` is the same for all turns of a chain (prefix-cache affinity).
        messages: the conversation so far.
        tools: OpenAI tool schemas.
        sampling: temperature, limits and seed.
        prompt_ids: exact ids of the conversation, image placeholders expanded; empty for a message-level backend.
        images: handles of all images of the conversation, in the order of their placeholders.
        load_image: returns the image of a handle, to be read and not changed.
    """

    request_id: str
    session_id: str
    messages: Sequence[Message]
    tools: Sequence[Mapping[str, object]]
    sampling: SamplingParams
    prompt_ids: Sequence[int] = ()
    images: Sequence[str] = ()
    load_image: Callable[[str], Image.Image] | None = None


@dataclass(frozen=True)
class Generation:
    """One generated turn.

    Attributes:
        text: the text as sampled, special tokens left out.
        finish_reason: "stop", "length" or "abort".
        tool_calls: calls that the server parsed natively; None where they are to be parsed from the text.
        token_ids: sampled ids, end token included when it was sampled; None from a message-level backend.
        logprobs: one per token id.
        prompt_tokens, completion_tokens: usage.
        extra: the backend's own fields (verl: weight version of the sample; vLLM: `cached_tokens` of the prompt).
    """

    text: str
    finish_reason: FinishReason = "stop"
    tool_calls: tuple[ToolCall, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    extra: Mapping[str, object] = field(default_factory=dict)


class LLMBackend(Protocol):
    """Generates turns. One backend serves many chains at once."""

    @property
    def codec(self) -> ChatCodec | None:
        """The codec of a token-level backend, else None."""
        ...

    async def generate(self, request: GenerationRequest, on_delta: OnDelta | None = None) -> Generation:
        """Generate one turn; cancelling the call aborts the request.

        Args:
            request: the conversation and the sampling.
            on_delta: listens to the text as it is generated.

        Raises:
            BackendError: no answer came, after the backend's own retries.
        """
        ...

    async def close(self) -> None:
        """Free what the backend holds. Safe to call twice."""
        ...
