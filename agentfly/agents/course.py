"""The state of one chain during its turns; `agentfly.agents.rollout` has the order of the limits."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from agentfly.agents.llm_backends.base import Generation, GenerationRequest
from agentfly.agents.streaming import Delta, Observation, ToolEnd, ToolStart, TurnEnd, TurnStart
from agentfly.agents.token_check import closed
from agentfly.agents.tool_calls import Outcome, TurnCalls
from agentfly.agents.trajectory import StopReason, TokenTrace, Turn
from agentfly.aio import CancelledItself, TimeLimitExceeded, with_timeout
from agentfly.errors import BackendError
from agentfly.messages import ImagePart, Message, Part, TextPart, ToolCall
from agentfly.tools import parse_tool_calls

if TYPE_CHECKING:
    from agentfly.agents.rollout import Chain, Rollout


class Course:
    """One chain on its way."""

    def __init__(self, rollout: Rollout, chain: Chain, started: float) -> None:
        self.rollout = rollout
        self.chain = chain
        self.trajectory = chain.trajectory
        self.limits = rollout.limits
        self.codec = rollout.backend.codec
        self._deadline = started + rollout.limits.wall_clock

    def start(self) -> None:
        """Tell the policy of its tools, and make the first prompt."""
        trajectory = self.trajectory
        trajectory.tools = self.chain.tools.schemas()
        if self.codec is not None:
            store = self.chain.view.store
            trajectory.tokens = TokenTrace(self.codec.prompt_ids(trajectory.messages, trajectory.tools, store.get))

    async def turn(self) -> StopReason | None:
        """One generation and its calls; the reason to stop after it, None to go on."""
        trajectory = self.trajectory
        if self._time_left() <= 0:
            return StopReason.WALL_CLOCK
        room, cut_by = self._room()
        if room < 1:
            return cut_by
        begun, began = time.monotonic(), time.time()
        try:
            generation = await with_timeout(self._generate(room), self._time_left())
        except TimeLimitExceeded:
            return StopReason.WALL_CLOCK
        except CancelledItself as fault:
            raise BackendError("the backend cancelled the request by itself") from fault
        calls = await self._keep(generation, time.monotonic() - begun, began)
        if generation.finish_reason == "abort":
            return StopReason.CANCELLED
        if not calls:
            # A turn cut by a limit did not decide to stop.
            return cut_by if generation.finish_reason == "length" else StopReason.NO_TOOL_CALL
        return await self._act(calls[: max(0, self.limits.max_tool_calls - len(trajectory.tool_records))], len(calls))

    async def _keep(self, generation: Generation, seconds: float, began: float) -> tuple[ToolCall, ...]:
        """Write a generation on the trajectory; returns its calls."""
        trajectory, span = self.trajectory, (0, 0)
        if trajectory.tokens is not None:
            if generation.token_ids is None:
                raise BackendError("a token-level backend returned no token ids")
            span = trajectory.tokens.add_sampled(generation.token_ids, generation.logprobs)
        content, calls = _read(generation)
        usage = generation.prompt_tokens, generation.completion_tokens
        trajectory.turns.append(Turn(generation.text, generation.finish_reason, seconds, (), *span, *usage, began))
        trajectory.messages.append(Message("assistant", (TextPart(content),) if content else (), calls))
        await self.rollout.tell(TurnEnd(trajectory.id, len(trajectory.turns) - 1, generation.text, seconds))
        return calls

    async def _act(self, allowed: tuple[ToolCall, ...], asked: int) -> StopReason | None:
        limits, turns = self.limits, self.trajectory.turns
        calls = TurnCalls(
            self.chain.tools, self.chain.view, lambda: max(0.0, min(limits.tool_timeout, self._time_left())), self
        )
        outcomes = await calls.run(allowed)
        for outcome in outcomes:
            if outcome.outage is not None:
                raise outcome.outage
        if outcomes and outcomes[-1].result.final:
            return StopReason.ANSWERED
        if len(allowed) < asked:
            return StopReason.MAX_TOOL_CALLS
        if len(turns) >= limits.max_turns:
            return StopReason.MAX_TURNS
        return self._observe([self._message(outcome) for outcome in outcomes])

    async def started(self, index: int, call: ToolCall) -> None:
        """See `agentfly.agents.tool_calls.Listener`."""
        await self.rollout.tell(ToolStart(*self._place(index), call.name, call.arguments))

    async def ended(self, index: int, call: ToolCall, seconds: float, error: str | None) -> None:
        """See `agentfly.agents.tool_calls.Listener`."""
        await self.rollout.tell(ToolEnd(*self._place(index), call.name, seconds, error))

    async def settled(self, outcome: Outcome) -> None:
        """Write what a call gave on the trajectory."""
        trajectory, result = self.trajectory, outcome.result
        trajectory.turns[-1] = replace(trajectory.turns[-1], tools=(*trajectory.turns[-1].tools, outcome.record))
        if result.final:
            trajectory.final_image = result.images[-1] if result.images else trajectory.final_image
            trajectory.answer = result.text
        elif made := [h for h in result.images if self.chain.view.name(h).startswith("img_")]:
            trajectory.final_image = made[-1]
        await self.rollout.tell(Observation(*self._place(outcome.index), result.text, result.images))

    def _place(self, index: int) -> tuple[str, int, int]:
        return self.trajectory.id, len(self.trajectory.turns) - 1, index

    def _message(self, outcome: Outcome) -> Message:
        """The observation as a message; an image that the words do not name is named beside it."""
        result = outcome.result
        parts: list[Part] = [TextPart(result.text)]
        for handle in result.images:
            name = self.chain.view.name(handle)
            if name not in result.text:
                parts.append(TextPart(f"\n{name}: "))
            parts.append(ImagePart(handle))
        return Message("tool", tuple(parts), tool_call_id=outcome.call.id)

    def _observe(self, observations: list[Message]) -> StopReason | None:
        """Append the observations, unless they do not fit: then the chain ends at this turn boundary."""
        trajectory = self.trajectory
        images = [handle for message in observations for handle in message.images]
        if len(trajectory.images) + len(images) > self.limits.max_images:
            return StopReason.CONTEXT_FULL
        if trajectory.tokens is not None and self.codec is not None:
            ends = closed(trajectory.tokens.response_ids[trajectory.turns[-1].start :], self.codec)
            ids = self.codec.continuation_ids(observations, trajectory.tools, self.chain.view.store.get, closed=ends)
            if self._left(trajectory.tokens) <= len(ids):
                return StopReason.CONTEXT_FULL
            trajectory.tokens.add_observation(ids)
        trajectory.images += images
        trajectory.messages += observations
        return None

    def _time_left(self) -> float:
        return self._deadline - time.monotonic()

    def _left(self, tokens: TokenTrace) -> int:
        response = self.limits.max_response_tokens - len(tokens.response_ids)
        context = self.limits.max_context_tokens - len(tokens.prompt_ids) - len(tokens.response_ids)
        return min(response, context)

    def _room(self) -> tuple[int, StopReason]:
        """Tokens that the next turn may sample, and the limit that says so."""
        turn = min(self.limits.max_tokens_per_turn, self.rollout.sampling.max_tokens)
        left = turn if self.trajectory.tokens is None else self._left(self.trajectory.tokens)
        return (left, StopReason.CONTEXT_FULL) if left < turn else (turn, StopReason.MAX_TOKENS)

    async def _generate(self, room: int) -> Generation:
        trajectory, turn, sampling = self.trajectory, len(self.trajectory.turns), self.rollout.sampling
        session = self.chain.session or trajectory.id
        seed = None if sampling.seed is None else _mix(sampling.seed, trajectory.id, turn)
        request = GenerationRequest(
            request_id=f"{session}-{turn}",
            session_id=session,
            messages=tuple(trajectory.messages),
            tools=trajectory.tools,
            sampling=replace(sampling, max_tokens=room, seed=seed),
            prompt_ids=trajectory.tokens.ids if trajectory.tokens else (),
            images=tuple(trajectory.images),
            load_image=self.chain.view.store.get,
        )
        await self.rollout.tell(TurnStart(trajectory.id, turn))

        async def on_delta(text: str) -> None:
            await self.rollout.tell(Delta(trajectory.id, turn, text))

        return await self.rollout.backend.generate(request, on_delta if self.rollout.on_event else None)


def _read(generation: Generation) -> tuple[str, tuple[ToolCall, ...]]:
    """Words and calls of a generation; native calls win over calls written in the text."""
    if generation.tool_calls is not None:
        return generation.text, generation.tool_calls
    parsed = parse_tool_calls(generation.text)
    return parsed.content, parsed.calls


def _mix(seed: int, chain: str, turn: int) -> int:
    """A seed of its own for each chain and turn, the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{chain}:{turn}".encode()).digest()[:4], "big") & 0x7FFFFFFF
