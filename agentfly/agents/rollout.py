"""The one rollout loop: `agent.run()`, evaluation and verl all drive this.

A chain alternates between one generation and the tool calls it asks for. Limits are checked in this order, each a
`StopReason`:

1. before a generation: `WALL_CLOCK`; then the room that is left for it: `CONTEXT_FULL`;
2. during it: `WALL_CLOCK` (what was generated so far is dropped), `BACKEND_ERROR`;
3. after it: an abort by the backend, `CANCELLED`; no tool call: `NO_TOOL_CALL`, or, if the turn was cut and so did not
   decide to stop, the limit that cut it: `MAX_TOKENS` (of a turn) or `CONTEXT_FULL` (room that was left);
4. after its calls: `TOOL_OUTAGE`, `ANSWERED`, `MAX_TOOL_CALLS` (calls beyond the limit are not carried out),
   `MAX_TURNS`, then whether the observations fit, in images and in tokens: `CONTEXT_FULL`.

`CANCELLED` and `ERROR` (a bug) can come at any moment. A failing tool is an observation. A failing backend, a tool
whose servers are out of order, or a bug is recorded on the trajectory; `run` does not raise, except when it is
cancelled, and then the trajectory so far is kept too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agentfly.agents.course import Course
from agentfly.agents.llm_backends.base import LLMBackend, SamplingParams
from agentfly.agents.streaming import ChainEnd, ChainStart, ErrorRaised, Event, OnEvent
from agentfly.agents.trajectory import StopReason, Trajectory
from agentfly.errors import BackendError, ToolOutage, one_line
from agentfly.images import ImageView
from agentfly.tools import Toolset

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
        max_images: images in the conversation.
        wall_clock: seconds of the whole chain; bounds generations and tool calls too.
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
        view: the images that this chain can name.
        tools: bound to the view.
        session: name of the chain towards the backend, unique among those that run; the trajectory's id by default.
    """

    trajectory: Trajectory
    view: ImageView
    tools: Toolset
    session: str = ""


@dataclass
class Rollout:
    """Runs chains on a backend.

    Attributes:
        backend: generates the turns; shared by all chains.
        limits: see `RolloutLimits`.
        sampling: of every turn; a seed is made different for each chain and turn.
        on_event: receives what happens, as it happens. One that fails is logged, and not told any more.
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
        try:
            await self._run(Course(self, chain, started))
        except asyncio.CancelledError:
            await self._finish(chain, started, StopReason.CANCELLED)
            raise
        except BackendError as fault:
            await self._finish(chain, started, StopReason.BACKEND_ERROR, str(fault))
        except ToolOutage as fault:
            await self._finish(chain, started, StopReason.TOOL_OUTAGE, str(fault))
        except Exception as fault:  # the boundary of a chain: a bug here must not end the batch
            told = one_line(fault)
            if told is None:
                logger.exception("chain %s failed", trajectory.id)
            await self._finish(chain, started, StopReason.ERROR, told or f"{type(fault).__name__}: {fault}")
        else:
            await self._finish(chain, started, trajectory.stop_reason or StopReason.ERROR)
        return trajectory

    async def _run(self, course: Course) -> None:
        trajectory = course.trajectory
        trajectory.images = [handle for message in trajectory.messages for handle in message.images]
        await self.tell(ChainStart(trajectory.id, tuple(trajectory.images)))
        course.start()
        while trajectory.stop_reason is None:
            trajectory.stop_reason = await course.turn()

    async def _finish(self, chain: Chain, started: float, reason: StopReason, error: str | None = None) -> None:
        trajectory = chain.trajectory
        trajectory.stop_reason, trajectory.error = reason, error
        trajectory.seconds = time.monotonic() - started
        trajectory.names = {name: chain.view.handle(name) for name in chain.view}
        if error is not None:
            await self.tell(ErrorRaised(trajectory.id, error))
        if self.score is not None and not reason.failed:
            await self.score(chain)
        await self.tell(ChainEnd(trajectory.id, reason, trajectory.seconds, trajectory.reward))

    async def tell(self, event: Event) -> None:
        """Pass an event on."""
        if self.on_event is None:
            return
        try:
            await self.on_event(event)
        except Exception:  # whoever listens must not end what it listens to
            logger.exception("the listener of events failed, and is not told any more")
            self.on_event = None
