"""A chain before it runs, its limits, and the settings of an agent. One chain is one rollout of one conversation."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentfly.agents.llm_backends.base import SamplingParams
from agentfly.agents.trajectory import Trajectory
from agentfly.images import ImageLimits, ImageView
from agentfly.tools import Toolset


@dataclass(frozen=True)
class RolloutLimits:
    """Limits of a chain; `agentfly.agents.rollout` has the order in which they are checked.

    Attributes:
        max_turns: generations.
        max_tokens_per_turn: sampled tokens of one generation.
        max_response_tokens: ids after the first prompt, observations included (token-level backends).
        max_context_tokens: ids in all (token-level backends).
        max_tool_calls: calls carried out.
        max_images: images in the conversation.
        wall_clock: seconds of the whole chain; limits generations and tool calls too.
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


@dataclass
class Chain:
    """A chain that is ready to run.

    Attributes:
        trajectory: holds the first messages; the rollout adds the rest.
        view: the images that the chain can name.
        tools: bound to the view.
        session: name of the chain towards the backend, unique among those that run; the trajectory's id by default.
    """

    trajectory: Trajectory
    view: ImageView
    tools: Toolset
    session: str = ""
