"""The one rollout loop: `agent.run()`, evaluation and verl all drive this.

A chain alternates between one generation and the tool calls it asks for. Limits are checked in this order, each a
`StopReason`:

1. before a generation: wall clock, then room left (context full, max tokens);
2. after a generation: abort (cancelled), no tool call;
3. after the calls: answered, max tool calls, max turns, then whether the observations fit (context full).

A failing tool is an observation. A failing backend or a bug is recorded on the trajectory; `run` does not raise, except
when it is cancelled, and then the trajectory so far is kept too.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agentfly.agents.llm_backends.base import Generation, GenerationRequest, LLMBackend, SamplingParams
from agentfly.agents.streaming import Event, OnEvent
from agentfly.agents.trajectory import StopReason, TokenTrace, ToolRecord, Trajectory, Turn
from agentfly.errors import BackendError, ImageError, ToolError
from agentfly.images import ImageView
from agentfly.messages import ImagePart, Message, Part, TextPart, ToolCall
from agentfly.tools import ToolResult, Toolset, parse_tool_calls

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RolloutLimits:
    """When a chain must end.

    Attributes:
        max_turns: generations.
        max_tokens_per_turn: sampled tokens of one generation.
        max_response_tokens: ids after the first prompt, observations included (token-level backends).
        max_context_tokens: ids in all (token-level backends).
        max_tool_calls: calls carried out.
        max_images: pictures in the conversation.
        wall_clock: seconds; checked between turns, and the bound of every tool call is `tool_timeout`.
        tool_timeout: seconds for one call.
    """

    max_turns: int = 8
    max_tokens_per_turn: int = 512
    max_response_tokens: int = 8192
    max_context_tokens: int = 32768
    max_tool_calls: int = 32
    max_images: int = 16
    wall_clock: float = 1800.0
    tool_timeout: float = 600.0


@dataclass
class Chain:
    """What a chain starts from.

    Attributes:
        trajectory: with the first messages.
        view: the pictures that this chain can name.
        tools: bound to the view.
    """

    trajectory: Trajectory
    view: ImageView
    tools: Toolset


@dataclass
class Rollout:
    """Runs chains on a backend.

    Attributes:
        backend: generates the turns; shared by all chains.
        limits: see `RolloutLimits`.
        sampling: of every turn; a seed is made different for each chain and turn.
        on_event: receives what happens, as it happens.
    """

    backend: LLMBackend
    limits: RolloutLimits = field(default_factory=RolloutLimits)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    on_event: OnEvent | None = None

    async def run(self, chain: Chain) -> Trajectory:
        """Run a chain to its end and return its trajectory."""
        trajectory, started = chain.trajectory, time.monotonic()
        try:
            await self._start(chain)
            while trajectory.stop_reason is None:
                trajectory.stop_reason = await self._turn(chain, started)
        except asyncio.CancelledError:
            trajectory.stop_reason = StopReason.CANCELLED
            raise
        except BackendError as fault:
            trajectory.stop_reason, trajectory.error = StopReason.BACKEND_ERROR, str(fault)
        except Exception as fault:  # the boundary of a chain: a bug here must not end the batch
            logger.exception("chain %s failed", trajectory.id)
            trajectory.stop_reason, trajectory.error = StopReason.ERROR, f"{type(fault).__name__}: {fault}"
        finally:
            trajectory.seconds = time.monotonic() - started
            trajectory.names = {name: chain.view.handle(name) for name in chain.view}
        await self._tell("end", trajectory, trajectory.stop_reason.value)
        return trajectory

    async def _start(self, chain: Chain) -> None:
        trajectory = chain.trajectory
        trajectory.images = [handle for message in trajectory.messages for handle in message.images]
        if self.backend.codec is not None:
            ids = self.backend.codec.prompt_ids(trajectory.messages, chain.tools.schemas(), chain.view.store.get)
            trajectory.tokens = TokenTrace(ids)

    async def _turn(self, chain: Chain, started: float) -> StopReason | None:
        trajectory, limits = chain.trajectory, self.limits
        if time.monotonic() - started > limits.wall_clock:
            return StopReason.WALL_CLOCK
        room, full = self._room(trajectory)
        if room < 1:
            return full
        generation, seconds = await self._generate(chain, room)
        span = self._keep_tokens(trajectory, generation)
        content, calls = _read(generation)
        turn = Turn(generation.text, generation.finish_reason, seconds, (), *span)
        trajectory.turns.append(turn)
        trajectory.messages.append(Message("assistant", (TextPart(content),) if content else (), calls))
        if generation.finish_reason == "abort":
            return StopReason.CANCELLED
        if not calls:
            # A turn cut by a limit did not decide to stop.
            return StopReason.MAX_TOKENS if generation.finish_reason == "length" else StopReason.NO_TOOL_CALL
        return await self._act(chain, calls, closed=generation.finish_reason != "length")

    async def _act(self, chain: Chain, calls: tuple[ToolCall, ...], *, closed: bool) -> StopReason | None:
        trajectory, limits = chain.trajectory, self.limits
        done = len(trajectory.tool_records)
        allowed = calls[: max(0, limits.max_tool_calls - done)]
        observations: list[Message] = []
        for call in allowed:
            message, final = await self._call(chain, call)
            if final:
                return StopReason.ANSWERED
            observations.append(message)
        if len(allowed) < len(calls):
            return StopReason.MAX_TOOL_CALLS
        if len(trajectory.turns) >= limits.max_turns:
            return StopReason.MAX_TURNS
        return self._observe(chain, observations, closed=closed)

    async def _call(self, chain: Chain, call: ToolCall) -> tuple[Message, bool]:
        trajectory = chain.trajectory
        await self._tell("tool", trajectory, f"{call.name}({_short(call.arguments)})")
        begun = time.monotonic()
        try:
            result = await chain.tools.execute(call, timeout=self.limits.tool_timeout)
            error = None
        except (ToolError, ImageError) as fault:
            result, error = ToolResult(f"Error: {fault}"), str(fault)
        seconds = time.monotonic() - begun
        record = ToolRecord(
            call.name, dict(call.arguments), seconds, result.engine, error, call.error is not None, dict(result.data)
        )
        trajectory.turns[-1] = replace(trajectory.turns[-1], tools=(*trajectory.turns[-1].tools, record))
        await self._tell("observation", trajectory, result.text, result.images)
        if result.final:
            trajectory.final_image = result.images[-1] if result.images else trajectory.final_image
            trajectory.answer = result.text
        elif made := [h for h in result.images if chain.view.name(h).startswith("img_")]:
            trajectory.final_image = made[-1]
        parts: tuple[Part, ...] = (TextPart(result.text), *(ImagePart(handle) for handle in result.images))
        return Message("tool", parts, tool_call_id=call.id), result.final

    def _observe(self, chain: Chain, observations: list[Message], *, closed: bool) -> StopReason | None:
        """Append the observations, unless they do not fit: then the chain ends at this turn boundary."""
        trajectory = chain.trajectory
        images = [handle for message in observations for handle in message.images]
        if len(trajectory.images) + len(images) > self.limits.max_images:
            return StopReason.CONTEXT_FULL
        if trajectory.tokens is not None and self.backend.codec is not None:
            ids = self.backend.codec.continuation_ids(
                observations, chain.tools.schemas(), chain.view.store.get, closed=closed
            )
            if self._left(trajectory.tokens) <= len(ids):
                return StopReason.CONTEXT_FULL
            trajectory.tokens.add_observation(ids)
        trajectory.images += images
        trajectory.messages += observations
        return None

    def _left(self, tokens: TokenTrace) -> int:
        response = self.limits.max_response_tokens - len(tokens.response_ids)
        context = self.limits.max_context_tokens - len(tokens.prompt_ids) - len(tokens.response_ids)
        return min(response, context)

    def _room(self, trajectory: Trajectory) -> tuple[int, StopReason]:
        """Tokens that the next turn may sample, and the reason to give when there are none."""
        if trajectory.tokens is None:
            return self.limits.max_tokens_per_turn, StopReason.MAX_TOKENS
        return min(self.limits.max_tokens_per_turn, self._left(trajectory.tokens)), StopReason.CONTEXT_FULL

    async def _generate(self, chain: Chain, room: int) -> tuple[Generation, float]:
        trajectory, turn = chain.trajectory, len(chain.trajectory.turns)
        seed = self.sampling.seed
        request = GenerationRequest(
            request_id=f"{trajectory.id}-{turn}",
            session_id=trajectory.id,
            messages=tuple(trajectory.messages),
            tools=chain.tools.schemas(),
            sampling=replace(
                self.sampling,
                max_tokens=min(room, self.sampling.max_tokens),
                seed=None if seed is None else _mix(seed, trajectory.id, turn),
            ),
            prompt_ids=trajectory.tokens.ids if trajectory.tokens else (),
            images=tuple(trajectory.images),
            load_image=chain.view.store.get,
        )
        await self._tell("turn", trajectory, f"turn {turn + 1}")
        begun = time.monotonic()

        async def on_delta(text: str) -> None:
            await self._tell("delta", trajectory, text)

        generation = await self.backend.generate(request, on_delta if self.on_event else None)
        return generation, time.monotonic() - begun

    def _keep_tokens(self, trajectory: Trajectory, generation: Generation) -> tuple[int, int]:
        if trajectory.tokens is None:
            return 0, 0
        if generation.token_ids is None:
            raise BackendError("a token-level backend returned no token ids")
        return trajectory.tokens.add_sampled(generation.token_ids, generation.logprobs)

    async def _tell(self, kind: Any, trajectory: Trajectory, text: str, images: tuple[str, ...] = ()) -> None:
        if self.on_event is not None:
            await self.on_event(Event(kind, trajectory.id, text, images))


def _read(generation: Generation) -> tuple[str, tuple[ToolCall, ...]]:
    """Words and calls of a generation; native calls win over calls written in the text."""
    if generation.tool_calls is not None:
        return generation.text, generation.tool_calls
    parsed = parse_tool_calls(generation.text)
    return parsed.content, parsed.calls


def _mix(seed: int, chain: str, turn: int) -> int:
    """A seed of its own for each chain and turn, the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{chain}:{turn}".encode()).digest()[:4], "big") & 0x7FFFFFFF


def _short(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())[:200]
