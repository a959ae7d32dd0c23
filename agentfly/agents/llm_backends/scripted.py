"""A backend that answers from a script, for tests, demonstrations and replays.

Otherwise it behaves like a real one: it streams, waits if asked to, obeys `max_tokens` and, with a codec, returns exact
token ids as vLLM does.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from agentfly.agents.llm_backends.base import Generation, GenerationRequest, OnDelta
from agentfly.errors import BackendError
from agentfly.templates import ChatCodec

Turn = str | Generation
Script = Sequence[str] | Callable[[GenerationRequest], Turn | Awaitable[Turn]]
Latency = float | Callable[[GenerationRequest], float]


class ScriptedBackend:
    """Plays a script.

    Args:
        script: texts, of which the n-th turn of each session gets the n-th; or a function of the request, plain or
            async, that returns a text or a whole `Generation`.
        latency: seconds before a turn comes, or a function of the request that returns them.
        codec: makes the backend token-level; log-probs are zeros.
    """

    def __init__(self, script: Script, latency: Latency = 0.0, codec: ChatCodec | None = None) -> None:
        self._script = script
        self._latency = latency
        self._codec = codec
        self._turns: Counter[str] = Counter()

    @property
    def codec(self) -> ChatCodec | None:
        """The codec of a token-level script, else None."""
        return self._codec

    async def generate(self, request: GenerationRequest, on_delta: OnDelta | None = None) -> Generation:
        """Return the next turn of the script.

        Args:
            request: the conversation; a script of texts reads only its session.
            on_delta: hears the text word by word.

        Raises:
            BackendError: the script has no text for this turn.
        """
        if callable(self._script):
            given = self._script(request)
            turn = await given if inspect.isawaitable(given) else given
        else:
            index = self._turns[request.session_id]
            if index >= len(self._script):
                raise BackendError(
                    f"turn {index + 1} was asked for, but the script has {len(self._script)} texts; "
                    "add one, or let the last one end the conversation"
                )
            self._turns[request.session_id] += 1
            turn = self._script[index]
        await asyncio.sleep(self._latency(request) if callable(self._latency) else self._latency)
        generation = turn if isinstance(turn, Generation) else self._generation(turn, request)
        if on_delta is not None:
            for word in re.findall(r"\S+\s*|\s+", generation.text):
                await on_delta(word)
        return generation

    async def close(self) -> None:
        """Forget the sessions: scripts start again from their first text."""
        self._turns.clear()

    def _generation(self, text: str, request: GenerationRequest) -> Generation:
        if self._codec is None:
            return Generation(text)
        ids: list[int] = list(self._codec.tokenizer.encode(text, add_special_tokens=False))
        whole = [*ids, self._codec.end_id]
        cut = whole[: request.sampling.max_tokens]
        return Generation(
            text=self._codec.decode(cut),
            finish_reason="stop" if len(cut) == len(whole) else "length",
            token_ids=tuple(cut),
            logprobs=(0.0,) * len(cut),
            prompt_tokens=len(request.prompt_ids),
            completion_tokens=len(cut),
        )
