"""A chain before it runs, its limits, and the settings of an agent. One chain is one rollout of one conversation."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field

from agentfly.agents.llm_backends.base import SamplingParams
from agentfly.agents.trajectory import Trajectory
from agentfly.images import ImageLimits, ImageView
from agentfly.messages import ToolCall
from agentfly.tools import ToolResult, Toolset


@dataclass(frozen=True)
class RolloutLimits:
    """Limits of a chain; `agentfly.agents.rollout` has the order in which they are checked.

    Attributes:
        max_turns: generations.
        max_tokens_per_turn: sampled tokens of one generation.
        max_thought_tokens: tokens after which a thought is closed, and the turn goes on with its answer; None for no
            limit of its own. For a template that opens the thought, on a backend that takes ids.
        max_response_tokens: ids after the first prompt, observations included (token-level backends).
        max_context_tokens: ids in all (token-level backends).
        max_tool_calls: calls carried out.
        max_images: images in the conversation.
        wall_clock: seconds of the whole chain; limits generations and tool calls too.
        tool_timeout: seconds for one call.
    """

    max_turns: int = 8
    max_tokens_per_turn: int = 512
    max_thought_tokens: int | None = None
    max_response_tokens: int = 8192
    max_context_tokens: int = 32768
    max_tool_calls: int = 32
    max_images: int = 16
    wall_clock: float = 1800.0
    tool_timeout: float = 600.0


@dataclass(frozen=True)
class AgentSettings:
    """The settings that all agents share.

    Attributes:
        system_prompt: first message of every chain that brings none; None for no system message.
        limits: of every chain.
        sampling: of every turn.
        image_limits: what images are accepted.
        max_concurrent_chains: chains of a run at the same time.
        reward_timeout: seconds that the reward function may take for one chain.
    """

    system_prompt: str | None = None
    limits: RolloutLimits = field(default_factory=RolloutLimits)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    image_limits: ImageLimits = field(default_factory=ImageLimits)
    max_concurrent_chains: int = 64
    reward_timeout: float = 600.0


class ChainHooks:
    """The moments of a chain that a subclass of `Agent` may change; an exception in one is a bug and ends its chain.

    One agent serves many chains at once: keep what belongs to one of them in `chain.state`.
    """

    def observe(self, result: ToolResult, call: ToolCall, chain: Chain) -> ToolResult:
        """Return the observation of a call as the policy is to see it. The record keeps the tool's own result.

        Args:
            result: of the tool, errors included; its text begins with "Error" then.
            call: of the policy.
            chain: as far as it has come.
        """
        return result

    def stop(self, chain: Chain) -> bool:
        """Return True to end the chain after the calls of a turn; it is scored as it stands.

        Args:
            chain: with the records of the turn, and without its observations.
        """
        return False

    def on_finish(self, chain: Chain) -> Awaitable[None] | None:
        """Do what is to be done when a chain has ended, before it is scored; sync or async.

        Args:
            chain: finished, also by a fault: `chain.trajectory.stop_reason` says how.
        """
        return None


@dataclass
class Chain:
    """A chain that is ready to run.

    Attributes:
        trajectory: holds the first messages; the rollout adds the rest.
        view: the images that the chain can name.
        tools: bound to the view.
        session: name of the chain towards the backend, unique among those that run; the trajectory's id by default.
        hooks: of the agent.
        state: for the hooks; it is not recorded.
    """

    trajectory: Trajectory
    view: ImageView
    tools: Toolset
    session: str = ""
    hooks: ChainHooks = field(default_factory=ChainHooks)
    state: dict[str, object] = field(default_factory=dict)
