"""The rollout loop. `agent.run()`, evaluation and verl all drive this one.

A chain alternates between one generation and the tool calls it asks for. Limits are checked in this order, each with
its own `StopReason`:

1. before a generation: `WALL_CLOCK`; then the room that is left for it: `CONTEXT_FULL`;
2. during it: `WALL_CLOCK` (what was generated so far is dropped), `BACKEND_ERROR`;
3. after it: an abort by the backend, `CANCELLED`; no tool call: `NO_TOOL_CALL`, or, if the turn was cut and so did not
   decide to stop, the limit that cut it: `MAX_TOKENS` (of a turn) or `CONTEXT_FULL` (room that was left);
   A thought that its own limit cut is closed, and the answer is a turn of its own;
4. after its calls: `TOOL_OUTAGE`, `ANSWERED`, `STOPPED` (by a hook of the agent), `MAX_TOOL_CALLS` (calls beyond the
   limit are not carried out), `MAX_TURNS`, then whether the observations fit, in images and in tokens: `CONTEXT_FULL`.

`CANCELLED` and `ERROR` (a bug) can come at any moment. A failing tool is an observation. A failing backend, a tool
whose servers are out of order, or a bug is recorded on the trajectory; `run` does not raise, except when it is
cancelled, and then the trajectory so far is kept too.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial

from agentfly.agents.chain import Chain, RolloutLimits
from agentfly.agents.llm_backends.base import Generation, GenerationRequest, LLMBackend, SamplingParams
from agentfly.agents.streaming import (
    ChainEnd,
    ChainStart,
    Delta,
    ErrorRaised,
    Event,
    Observation,
    OnEvent,
    ToolEnd,
    ToolStart,
    TurnEnd,
    TurnStart,
)
from agentfly.agents.token_check import TokenTrace
from agentfly.agents.tool_calls import Outcome, TurnCalls
from agentfly.agents.trajectory import StopReason, Trajectory, Turn
from agentfly.aio import CancelledItself, TimeLimitExceeded, awaited, with_timeout
from agentfly.errors import BackendError, ConfigError, ImageError, ToolOutage, one_line
from agentfly.importing import described
from agentfly.messages import ImagePart, Message, Part, TextPart, ToolCall
from agentfly.tools import ParsedText, ToolResult, parse_tool_calls

logger = logging.getLogger(__name__)

# Characters. A shorter text is parsed in less time than a thread takes to start.
_LONG_TEXT = 20_000
# Seconds that `on_finish` may take for a chain that is cancelled: whoever cancels waits for it.
_FAREWELL = 5.0


@dataclass
class Rollout:
    """Run chains on a backend.

    Attributes:
        backend: generates the turns; shared by all chains.
        limits: see `RolloutLimits`.
        sampling: of every turn; a seed is made different for each chain and turn.
        on_event: receives the events of all chains. When it raises, that is logged, and it receives no more events.
        score: writes a reward on a finished trajectory.
    """

    backend: LLMBackend
    limits: RolloutLimits = field(default_factory=RolloutLimits)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    on_event: OnEvent | None = None
    score: Callable[[Chain], Awaitable[None]] | None = None

    async def run(self, chain: Chain) -> Trajectory:
        """Run a chain to its end and return its trajectory."""
        trajectory, started = chain.trajectory, time.monotonic()
        trajectory.images = [handle for message in trajectory.messages for handle in message.images]
        reason, error = StopReason.ERROR, None
        try:
            await self.emit(ChainStart(trajectory.id, tuple(trajectory.images)))
            reason = await RunningChain(self, chain, started + self.limits.wall_clock).run()
        except asyncio.CancelledError:
            await self._finish(chain, started, StopReason.CANCELLED)
            raise
        except BackendError as fault:
            reason, error = StopReason.BACKEND_ERROR, str(fault)
        except ToolOutage as fault:
            reason, error = StopReason.TOOL_OUTAGE, str(fault)
        except Exception as fault:  # the boundary of a chain: a bug here must not end the batch
            error = one_line(fault)
            if error is None:
                logger.exception("chain %s failed", trajectory.id)
                error = described(fault)
        await self._finish(chain, started, reason, error)
        return trajectory

    async def _finish(self, chain: Chain, started: float, reason: StopReason, error: str | None = None) -> None:
        trajectory, cancelled = chain.trajectory, reason is StopReason.CANCELLED
        trajectory.stop_reason, trajectory.error = reason, error
        trajectory.seconds = time.monotonic() - started
        trajectory.names = {name: chain.view.handle(name) for name in chain.view}
        fault = await self._tell_hook(chain, self.limits.tool_timeout if not cancelled else _FAREWELL)
        if fault is not None and error is None:
            reason, error = reason if cancelled else StopReason.ERROR, fault
            trajectory.stop_reason, trajectory.error = reason, error
        if error is not None:
            await self.emit(ErrorRaised(trajectory.id, error))
        if self.score is not None and not reason.failed:
            await self.score(chain)
        await self.emit(ChainEnd(trajectory.id, reason, trajectory.seconds, trajectory.reward))

    async def _tell_hook(self, chain: Chain, timeout: float) -> str | None:
        """Call `on_finish` of the agent; return its fault in words, None for none."""
        try:
            waited = chain.hooks.on_finish(chain)
            if waited is not None:
                await with_timeout(awaited(waited), timeout)
        except TimeLimitExceeded:
            return f"on_finish took longer than {timeout:g} s"
        except CancelledItself:
            return "on_finish cancelled itself"
        except Exception as fault:  # a person's own code, at the boundary of a chain
            logger.exception("on_finish of chain %s failed", chain.trajectory.id)
            return f"on_finish: {described(fault)}"
        return None

    async def emit(self, event: Event) -> None:
        """Pass an event to `on_event`. A listener that raises is dropped: it must not end the run it listens to."""
        if self.on_event is None:
            return
        try:
            await self.on_event(event)
        except Exception:
            logger.exception("the listener of events failed, and is not told any more")
            self.on_event = None


class RunningChain:
    """One chain during its turns. It also listens to its tool calls (`agentfly.agents.tool_calls.Listener`).

    Args:
        rollout: backend, limits and events.
        chain: what runs.
        deadline: end of the wall clock, in `time.monotonic()` seconds.
    """

    def __init__(self, rollout: Rollout, chain: Chain, deadline: float) -> None:
        self.rollout = rollout
        self.chain = chain
        self.trajectory = chain.trajectory
        self.limits = rollout.limits
        self.codec = rollout.backend.codec
        self._deadline = deadline
        self._names = frozenset(tool.name for tool in chain.tools)
        # Thoughts that their limit closed: each is a turn of its own. The last one waits for its answer.
        self._closed_thoughts, self._answering = 0, False

    async def run(self) -> StopReason:
        """Make the first prompt, then take turns until a limit or the policy ends the chain."""
        trajectory = self.trajectory
        trajectory.tools = self.chain.tools.schemas()
        if self.limits.max_thought_tokens is not None and (self.codec is None or not self.codec.opens_thought):
            raise ConfigError("max_thought_tokens needs a token-exact backend and a template that opens a thought")
        if self.codec is not None:
            images = self.chain.view.store.shared
            trajectory.tokens = TokenTrace(self.codec.prompt_ids(trajectory.messages, trajectory.tools, images))
        while True:
            reason = await self._turn()
            if reason is not None:
                return reason

    async def _turn(self) -> StopReason | None:
        """Take one turn: a generation and its calls. Return the reason to stop after it; None to go on."""
        if self._time_left() <= 0:
            return StopReason.WALL_CLOCK
        # The tokens that this turn may sample, and the limit that says so.
        room, cut_by = min(self.limits.max_tokens_per_turn, self.rollout.sampling.max_tokens), StopReason.MAX_TOKENS
        if self.trajectory.tokens is not None and (left := self._tokens_left(self.trajectory.tokens)) < room:
            room, cut_by = left, StopReason.CONTEXT_FULL
        if room < 1:
            return cut_by
        clock, began = time.monotonic(), time.time()
        try:
            generation = await with_timeout(self._generate_turn(room), self._time_left())
        except TimeLimitExceeded:
            return StopReason.WALL_CLOCK
        except CancelledItself as fault:
            raise BackendError("the backend cancelled the request by itself") from fault
        calls = await self._record(generation, time.monotonic() - clock, began)
        if generation.finish_reason == "abort":
            return StopReason.CANCELLED
        if self._close_thought(generation, room):
            return None
        self._answering = False
        if not calls:
            # A turn cut by a limit did not decide to stop.
            return cut_by if generation.finish_reason == "length" else StopReason.NO_TOOL_CALL
        allowed = max(0, self.limits.max_tool_calls - len(self.trajectory.tool_records))
        return await self._act(calls[:allowed], len(calls))

    async def _generate_turn(self, room: int) -> Generation:
        """Generate a turn; where its thought has a limit, the thought alone if the limit cuts it."""
        await self.rollout.emit(TurnStart(self.trajectory.id, len(self.trajectory.turns)))
        limit = self.limits.max_thought_tokens
        if self.codec is None or limit is None or limit >= room or self._answering:
            return await self._generate(room)
        first = await self._generate(limit)
        if first.finish_reason != "length" or self.codec.in_thought(first.text) or first.token_ids is None:
            return first
        # The thought is over, and its limit cut the answer: the rest belongs to the same turn.
        rest = await self._generate(room - limit, first.token_ids)
        ids = (*first.token_ids, *(rest.token_ids or ()))
        known = first.logprobs is not None and rest.logprobs is not None
        return replace(
            rest,
            text=self.codec.decode(ids),
            token_ids=ids,
            logprobs=(*(first.logprobs or ()), *(rest.logprobs or ())) if known else None,
            prompt_tokens=first.prompt_tokens,
            completion_tokens=len(ids),
        )

    def _close_thought(self, generation: Generation, room: int) -> bool:
        """Close a thought that its limit has cut; return False where there is none, or no room to close it."""
        limit, tokens = self.limits.max_thought_tokens, self.trajectory.tokens
        if self.codec is None or tokens is None or limit is None or limit >= room or self._answering:
            return False
        ids = self.codec.closing_ids
        cut = generation.finish_reason == "length" and self.codec.in_thought(generation.text)
        if not cut or self._tokens_left(tokens) <= len(ids):
            return False
        tokens.add_observation(ids)
        self._closed_thoughts, self._answering = self._closed_thoughts + 1, True
        return True

    async def _generate(self, room: int, sampled: tuple[int, ...] = ()) -> Generation:
        """Generate up to `room` tokens, after those of this turn that were sampled already."""
        trajectory, turn, sampling = self.trajectory, len(self.trajectory.turns), self.rollout.sampling
        session = self.chain.session or trajectory.id
        seed = None if sampling.seed is None else _turn_seed(sampling.seed, trajectory.id, turn)
        request = GenerationRequest(
            request_id=f"{session}-{turn}" + ("-rest" if sampled else ""),
            session_id=session,
            messages=tuple(trajectory.messages),
            tools=trajectory.tools,
            sampling=replace(sampling, max_tokens=room, seed=seed),
            prompt_ids=[*trajectory.tokens.ids, *sampled] if trajectory.tokens else (),
            images=tuple(trajectory.images),
            load_image=self.chain.view.store.shared,
        )

        async def on_delta(text: str) -> None:
            await self.rollout.emit(Delta(trajectory.id, turn, text))

        return await self.rollout.backend.generate(request, on_delta if self.rollout.on_event else None)

    async def _record(self, generation: Generation, seconds: float, began: float) -> tuple[ToolCall, ...]:
        """Write a generation on the trajectory and return its calls. Native calls win over calls in the text."""
        trajectory, span = self.trajectory, (0, 0)
        if trajectory.tokens is not None:
            if generation.token_ids is None:
                raise BackendError("a token-level backend returned no token ids")
            span = trajectory.tokens.add_sampled(generation.token_ids, generation.logprobs)
        content, calls = generation.text, generation.tool_calls
        if calls is None:
            parsed = await self._parse(generation.text, generation.finish_reason == "length")
            content, calls = parsed.content, parsed.calls
        usage = generation.prompt_tokens, generation.completion_tokens
        trajectory.turns.append(Turn(generation.text, generation.finish_reason, seconds, (), *span, *usage, began))
        trajectory.messages.append(Message("assistant", (TextPart(content),) if content else (), calls))
        await self.rollout.emit(TurnEnd(trajectory.id, len(trajectory.turns) - 1, generation.text, seconds))
        return calls

    async def _parse(self, text: str, cut: bool) -> ParsedText:
        parse = partial(parse_tool_calls, text, cut=cut, names=self._names)
        if self.codec is not None:
            marks = self.codec.reasoning.begins, self.codec.reasoning.ends
            thinking = self.codec.opens_thought and not self._answering
            parse = partial(parse, thinking=thinking, form=self.codec.call_form, marks=marks)
        # Other chains must not wait for a long text.
        return parse() if len(text) < _LONG_TEXT else await asyncio.to_thread(parse)

    async def _act(self, allowed: tuple[ToolCall, ...], asked: int) -> StopReason | None:
        """Carry out the calls of a turn and show what they gave to the policy."""

        def seconds_for_a_call() -> float:
            return max(0.0, min(self.limits.tool_timeout, self._time_left()))

        outcomes = await TurnCalls(self.chain.tools, self.chain.view, seconds_for_a_call, self).run(allowed)
        for outcome in outcomes:
            if outcome.outage is not None:
                raise outcome.outage
        if outcomes and outcomes[-1].result.final:
            return StopReason.ANSWERED
        if self.chain.hooks.stop(self.chain):
            return StopReason.STOPPED
        if len(allowed) < asked:
            return StopReason.MAX_TOOL_CALLS
        if len(self.trajectory.turns) - self._closed_thoughts >= self.limits.max_turns:
            return StopReason.MAX_TURNS
        return self._observe([self._message(outcome) for outcome in outcomes])

    def _message(self, outcome: Outcome) -> Message:
        """Return the observation as a message. An image that its text does not name is named before the image.

        Words stand for an image that the policy's processor refuses.
        """
        result: object = self.chain.hooks.observe(outcome.result, outcome.call, self.chain)
        if not isinstance(result, ToolResult):
            raise TypeError(f"observe of {type(self.chain.hooks).__name__} returns a ToolResult, not {result!r:.60}")
        parts: list[Part] = [TextPart(result.text)]
        for handle in result.images:
            name = self.chain.view.name(handle)
            try:
                if self.codec is not None:
                    self.codec.image_length(handle, self.chain.view.store.shared)
            except ImageError as fault:
                parts.append(TextPart(f"\n{name}: {fault}"))
                continue
            if not any(known in result.text for known in self.chain.view.all_names(handle)):
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
            ended_by = self.codec.end_of(trajectory.tokens.response_ids[trajectory.turns[-1].start :])
            load, before = self.chain.view.store.shared, len(trajectory.images)
            ids = self.codec.continuation_ids(
                observations, trajectory.tools, load, ended_by=ended_by, images_before=before
            )
            if self._tokens_left(trajectory.tokens) <= len(ids):
                return StopReason.CONTEXT_FULL
            trajectory.tokens.add_observation(ids)
        trajectory.images += images
        trajectory.messages += observations
        return None

    async def started(self, index: int, call: ToolCall) -> None:
        """See `agentfly.agents.tool_calls.Listener`."""
        await self.rollout.emit(ToolStart(*self._position(index), call.name, call.arguments))

    async def ended(self, index: int, call: ToolCall, seconds: float, error: str | None) -> None:
        """See `agentfly.agents.tool_calls.Listener`."""
        await self.rollout.emit(ToolEnd(*self._position(index), call.name, seconds, error))

    async def settled(self, outcome: Outcome) -> None:
        """Write the outcome of a call on the trajectory."""
        trajectory, result = self.trajectory, outcome.result
        trajectory.turns[-1] = replace(trajectory.turns[-1], tools=(*trajectory.turns[-1].tools, outcome.record))
        if result.final:
            trajectory.final_image = result.images[-1] if result.images else trajectory.final_image
            trajectory.answer = result.text
        elif not outcome.record.looks:
            # A mask that a tool returns is no result.
            made = [handle for handle in result.images if self.chain.view.name(handle).startswith("img_")]
            trajectory.final_image = made[-1] if made else trajectory.final_image
        await self.rollout.emit(Observation(*self._position(outcome.index), result.text, result.images))

    def _position(self, index: int) -> tuple[str, int, int]:
        """Return chain, turn and call of an event."""
        return self.trajectory.id, len(self.trajectory.turns) - 1, index

    def _time_left(self) -> float:
        return self._deadline - time.monotonic()

    def _tokens_left(self, tokens: TokenTrace) -> int:
        response = self.limits.max_response_tokens - len(tokens.response_ids)
        context = self.limits.max_context_tokens - len(tokens.prompt_ids) - len(tokens.response_ids)
        return min(response, context)


def _turn_seed(seed: int, chain: str, turn: int) -> int:
    """Return a seed for one turn of one chain, the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{chain}:{turn}".encode()).digest()[:4], "big") & 0x7FFFFFFF
