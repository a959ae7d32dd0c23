"""The agent of a run, its engines and its limits, from which every chain is made; nothing here needs verl.

The agent loop, the checks before a run and `agentfly try` make their chains here.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentfly.agents import Agent, AgentSettings, Chain, RolloutLimits, task_conversation
from agentfly.agents.factory import make_agent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.llm_backends.base import SamplingParams
from agentfly.datasets import EditTask
from agentfly.images import ImageStore
from agentfly.templates import ChatCodec
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.verl_config import VerlConfig
from agentfly.vision import Engines


@dataclass(frozen=True)
class RunContext:
    """The objects that chains of a run share.

    Attributes:
        settings: of the run.
        engines: behind the tools.
        limits: of every chain.
        agent: makes the chains.
    """

    settings: TrainSettings
    engines: Engines
    limits: RolloutLimits
    agent: Agent

    @property
    def sampling(self) -> SamplingParams:
        """Sampling parameters of every turn; a seed only where the run asks for seeds."""
        seed = self.settings.seed if self.settings.seeded else None
        return SamplingParams(max_tokens=self.limits.max_tokens_per_turn, seed=seed)


def make_run_context(settings: TrainSettings, codec: ChatCodec | None, limits: RolloutLimits) -> RunContext:
    """Make engines and agent of a run.

    Args:
        settings: of the run.
        codec: of the checkpoint; None where only messages are known.
        limits: of every chain.

    Raises:
        ConfigError: the agent, a tool or an engine cannot be made.
    """
    engines = make_run_engines(settings)
    # Each chain generates on a backend of its own.
    backend = ScriptedBackend([], codec=codec)
    own = AgentSettings(system_prompt=settings.card().system_prompt, limits=limits)
    agent = make_agent(settings.spec(), settings.model, engines=engines, backend=backend, settings=own)
    return RunContext(settings, engines, limits, agent)


def run_limits(config: VerlConfig, settings: TrainSettings) -> RolloutLimits:
    """Return the limits of a chain, with the lengths that verl has room for.

    Args:
        config: the complete configuration.
        settings: its section `agentfly`.
    """
    rollout = config.actor_rollout_ref.rollout
    return settings.rollout_limits(rollout.prompt_length, rollout.response_length)


def new_chain(context: RunContext, task: EditTask, group: str, number: int) -> Chain:
    """Return a chain of a task, ready to run.

    Args:
        context: of the process.
        task: the task.
        group: name of the prompt's chains.
        number: of the chain among them.
    """
    # A store of its own: the images of a chain are freed with it.
    return context.agent.chain(task_conversation(task), group, number, store=ImageStore())


def make_run_engines(settings: TrainSettings) -> Engines:
    """Return the engines of a run: local ones, or a pool of image servers in front of them."""
    from agentfly.vision.factory import make_engines

    engines = make_engines(settings.engines)
    if not settings.client_nodes:
        return engines
    from agentfly.vision.remote import remote_engines

    return remote_engines(
        settings.nodes(),
        max_requests_per_minute=settings.max_requests_per_minute,
        # Less than the tool's own limit: the pool's error says which servers are at fault.
        timeout=0.9 * settings.limits.tool_timeout,
        otherwise=engines,
    )
