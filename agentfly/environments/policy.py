"""A backend whose turns come from outside: another program's trainer holds the policy."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Never

from agentfly.agents.llm_backends.base import FinishReason, Generation, GenerationRequest, OnDelta
from agentfly.errors import ConfigError
from agentfly.files import encodable
from agentfly.images import ImageSource
from agentfly.messages import from_openai
from agentfly.templates import ChatCodec

# The reasons of OpenAI's API and of vLLM; a content filter ends a turn as the policy itself would.
FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "tool_calls": "stop",
    "length": "length",
    "abort": "abort",
}


class Seat:
    """The place of one chain's policy.

    Attributes:
        asked: the conversations that wait for a turn; one at most.
    """

    def __init__(self) -> None:
        self.asked: asyncio.Queue[GenerationRequest] = asyncio.Queue(1)
        self._turns: asyncio.Queue[Generation] = asyncio.Queue(1)

    def give(self, turn: Generation) -> None:
        """Give the turn that was asked for."""
        self._turns.put_nowait(turn)

    async def ask(self, request: GenerationRequest) -> Generation:
        """Ask for a turn and wait for it. The rollout limits the time."""
        self.asked.put_nowait(request)
        return await self._turns.get()


class ExternalPolicy:
    """The backend of all episodes of an environment. It works on messages, so its trajectories have no token ids."""

    codec: ChatCodec | None = None

    def __init__(self) -> None:
        self._seats: dict[str, Seat] = {}

    def take_seat(self, session: str) -> Seat:
        """Return the place of the policy of a chain that is about to run.

        Raises:
            ConfigError: a chain of that name is running.
        """
        if session in self._seats:
            raise ConfigError(f"an episode {session!r} is running: give each its own episode_id, or none")
        return self._seats.setdefault(session, Seat())

    def leave_seat(self, session: str) -> None:
        """Forget the place of a chain that has ended."""
        self._seats.pop(session, None)

    async def generate(self, request: GenerationRequest, on_delta: OnDelta | None = None) -> Generation:
        """Wait for the next turn of a chain; see `LLMBackend.generate`."""
        return await self._seats[request.session_id].ask(request)

    async def close(self) -> None:
        """Forget all places."""
        self._seats.clear()


def read_turn(message: object, finish_reason: str = "stop") -> Generation:
    """Return the turn that a program gives.

    Args:
        message: the text of the turn, or an assistant message in OpenAI's form. Calls in `tool_calls` go before calls
            that are written in the text.
        finish_reason: one of `FINISH_REASONS`.

    Raises:
        ConfigError: it is no assistant message, it holds an image, or the reason is unknown.
    """
    if finish_reason not in FINISH_REASONS:
        raise ConfigError(f"finish_reason is one of {', '.join(FINISH_REASONS)}")
    given: object = encodable({"content": message} if isinstance(message, str) else message)
    if isinstance(given, Mapping):
        given = {"role": "assistant", **{key: value for key, value in given.items() if value is not None}}
    turn = from_openai(given, _refuse_image)
    if turn.role != "assistant":
        raise ConfigError(f"a step takes the policy's own message: its role is assistant, not {turn.role}")
    return Generation(turn.text, FINISH_REASONS[finish_reason], turn.tool_calls or None)


def _refuse_image(source: ImageSource) -> Never:
    raise ConfigError("a policy names images by their ids and sends none: leave them out of its message")
