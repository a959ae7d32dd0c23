"""The work of one training step, and its parts in the order in which they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agentfly.agents import RolloutLimits
from agentfly.evaluators.factory import names_in
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.verl_config import VerlConfig

# verl's name of each part of a step that takes time, and the word for people.
PHASES = {
    "gen": "rollout",
    "old_log_prob": "log-probs",
    "ref": "reference",
    "values": "values",
    "update_critic": "critic",
    "update_actor": "update",
    "update_weights": "sync",
    "save_checkpoint": "checkpoint",
    "testing": "validation",
}


@dataclass(frozen=True)
class StepParts:
    """A step, in numbers that it does not exceed.

    Attributes:
        prompts: tasks.
        samples: chains of each.
        limits: of a chain.
        rounds: times that all parts but the synchronisation of the weights are run, each with its share of the prompts.
        parts: one after the other, each with the work in it; the order is that of `_step_once` in
            verl/trainer/ppo/v1/trainer_base.py.
        now_and_then: parts that only some steps have.
    """

    prompts: int
    samples: int
    limits: RolloutLimits
    rounds: int
    parts: tuple[str, ...]
    now_and_then: tuple[str, ...]

    def in_words(self) -> list[str]:
        """Return a line with the numbers of a step and one with its parts."""
        limits, chains = self.limits, self.prompts * self.samples
        size = (
            f"{self.prompts} prompts x {self.samples} = {chains:,} chains, each of at most {limits.max_turns} turns, "
            f"{limits.max_tool_calls} tool calls and {limits.max_context_tokens:,} tokens; together at most "
            f"{chains * limits.max_tool_calls:,} tool calls and {chains * limits.max_context_tokens:,} tokens"
        )
        *parts, last = self.parts
        order = ", then ".join(parts)
        order = f"{order}, then {last}" if self.rounds == 1 else f"{self.rounds} rounds of: {order}; then {last}"
        return [size, "; ".join((order, *self.now_and_then))]


def parts_of(config: VerlConfig, settings: TrainSettings) -> StepParts:
    """Return the parts of a run's steps.

    Args:
        config: complete.
        settings: its section `agentfly`.
    """
    data, trainer = config.data, config.trainer
    apart = trainer.v1.trainer_mode == "separate_async"
    every = ((trainer.save_freq, "save_checkpoint"), (trainer.test_freq, "testing"))
    return StepParts(
        prompts=data.train_batch_size,
        samples=config.actor_rollout_ref.rollout.n,
        limits=settings.rollout_limits(data.max_prompt_length, data.max_response_length),
        rounds=trainer.v1.separate_async.parameter_sync_step if apart else 1,
        parts=tuple(_parts(config, settings)),
        now_and_then=tuple(f"every {steps} steps {PHASES[name]}" for steps, name in every if steps > 0),
    )


def seconds_in_words(metrics: Mapping[str, float]) -> str:
    """Return the seconds of a step and of its parts, of those that the metrics have.

    Args:
        metrics: of one step, or means over some, by name.
    """
    times = ((label, metrics.get(f"timing_s/{name}")) for name, label in PHASES.items())
    parts = [f"{label} {seconds:.1f}" for label, seconds in times if seconds is not None]
    return f"{metrics['timing_s/step']:.1f} s = {' + '.join(parts)}"


def _parts(config: VerlConfig, settings: TrainSettings) -> Iterator[str]:
    actor, algorithm, trainer = config.actor_rollout_ref.actor, config.algorithm, config.trainer
    samples, mode = config.actor_rollout_ref.rollout.n, trainer.v1.trainer_mode
    yield f"{PHASES['gen']} ({'; '.join(_rollout(config, settings))})"
    if not algorithm.rollout_correction.bypass_mode:
        yield PHASES["old_log_prob"]
    if actor.use_kl_loss or algorithm.use_kl_in_reward:
        yield PHASES["ref"]
    prompts = actor.ppo_mini_batch_size if mode == "separate_async" else config.data.train_batch_size
    if algorithm.adv_estimator == "gae":
        critic = config.critic
        yield PHASES["values"]
        yield f"{PHASES['update_critic']} ({_updates(prompts, critic.ppo_mini_batch_size, critic.ppo_epochs, samples)})"
    updates = _updates(prompts, actor.ppo_mini_batch_size, actor.ppo_epochs, samples)
    if trainer.critic_warmup > 1:
        updates += f", from step {trainer.critic_warmup} on"
    yield f"{PHASES['update_actor']} ({updates})"
    yield f"{PHASES['update_weights']} of the weights"


def _updates(prompts: int, mini: int, epochs: int, samples: int) -> str:
    count = -(-prompts // mini) * epochs
    return f"{count} optimizer step{'s' * (count > 1)} of {mini * samples:,} chains"


def _rollout(config: VerlConfig, settings: TrainSettings) -> Iterator[str]:
    """Yield what goes on in a rollout, all of it side by side."""
    servers, rollout = len(settings.client_nodes), config.actor_rollout_ref.rollout
    tools = f"tools on {servers} image server{'s' * (servers > 1)}" if servers else "tools in the run's own processes"
    by = " and ".join(names_in(settings.evaluator)) if settings.asks_evaluator else settings.reward_function
    scoring = f"scoring by {by}"
    if settings.scores_groups:
        scoring += " of the chains of a prompt together"
    elif settings.credit is not None:
        scoring += " of each edit"
    if settings.audit is not None:
        scoring += f" with {settings.audit.settings.share:.0%} of the chains audited"
    yield f"generation, {tools} and {scoring} side by side"
    if config.trainer.v1.trainer_mode == "separate_async":
        yield f"on {rollout.nnodes * rollout.n_gpus_per_node} accelerators of its own, which go on during the rest"
    elif config.trainer.v1.trainer_mode != "sync":
        yield "chains that are not done go on in the next step"
    if config.algorithm.filter_groups.enable:
        yield "more chains where prompts whose chains score alike are replaced"
