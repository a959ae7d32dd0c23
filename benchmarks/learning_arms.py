"""The arms of `benchmarks/learning.py`: what each changes in the recipe, and the worlds that some of them have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from learning_report import SEEN
from simulated_judge import JUDGED_ARMS

from agentfly.agents.policy_config import PolicyConfig
from agentfly.datasets import FAMILIES, LOOK_FAMILIES, RETOUCH_FAMILIES
from agentfly.training.quickstart.warm_start import SFTConfig, WarmStartConfig

# A critic has some sixty returns a step to learn from, and starts at zero: it takes four small steps on each batch
# twice, and the policy waits until it has seen two batches.
CRITIC = ("trainer.critic_warmup=3", "critic.optim.lr=1e-3", "critic.ppo_epochs=2", "critic.cliprange_value=10")
# More tools, a second image and a look before the edit take more tokens.
LONGER = ("algorithm.adv_estimator=grpo", "data.max_prompt_length=96", "data.max_response_length=256")
REFILL, CURRICULUM = "agentfly.refill=true", "agentfly.curriculum=true"
# Whether to look is one token in a hundred: at the recipe's rate it did not change in 24 steps.
FAST, SLOW = "actor_rollout_ref.actor.optim.lr=1e-3", "actor_rollout_ref.actor.optim.lr=5e-4"
ARMS: Mapping[str, tuple[str, ...]] = {
    "ppo": ("algorithm.adv_estimator=gae", "algorithm.gamma=1.0", "algorithm.lam=1.0", *CRITIC),
    "grpo": ("algorithm.adv_estimator=grpo",),
    "rloo": ("algorithm.adv_estimator=rloo",),
    "reinforce_plus_plus": ("algorithm.adv_estimator=reinforce_plus_plus",),
    "one_call": ("algorithm.adv_estimator=grpo", "agentfly.limits.max_turns=1", "agentfly.limits.max_tool_calls=1"),
    "turn_credit": ("algorithm.adv_estimator=turn_grpo", "agentfly.credit=end"),
    "no_tool_cost": ("algorithm.adv_estimator=grpo", "agentfly.reward.tool_cost=0"),
    "turn_credit_no_tool_cost": (
        "algorithm.adv_estimator=turn_grpo",
        "agentfly.credit=end",
        "agentfly.reward.tool_cost=0",
    ),
    "refill": ("algorithm.adv_estimator=grpo", REFILL),
    "curriculum": ("algorithm.adv_estimator=grpo", CURRICULUM),
    "refill_curriculum": ("algorithm.adv_estimator=grpo", REFILL, CURRICULUM),
    **dict.fromkeys(JUDGED_ARMS, ("algorithm.adv_estimator=grpo",)),
    "no_look": (*LONGER, FAST),
    "look": (*LONGER, FAST),
    # A tool that pays in one type is taken for all of them, and the others are tried no more: slower, each is learned.
    "retouch": (*LONGER, SLOW),
}


@dataclass(frozen=True)
class World:
    """The tasks of an arm and the warm start that it begins with.

    Attributes:
        name: of the files of its tasks, and in the names of plots.
        families: task types.
        warm_start: settings, but for the seed.
        updates: of the policy in a step.
        weights: how often a type is drawn for one of the others; 1 where it is not named.
    """

    name: str
    families: tuple[str, ...]
    warm_start: WarmStartConfig
    updates: int = 1
    weights: Mapping[str, int] = field(default_factory=dict)

    @property
    def turn(self) -> list[str]:
        """The types in the order in which training tasks are drawn, again and again."""
        return [family for family in self.families for _ in range(self.weights.get(family, 1))]

    @classmethod
    def of_tools(cls, name: str, families: tuple[str, ...], *tools: str, taught: Sequence[str] = ()) -> World:
        """Return the world of families whose agent has these tools.

        Args:
            name, families, tools: of the world.
            taught: task types of the warm start, if not those of the world.
        """
        card = PolicyConfig(system_prompt=None, max_turns=5, max_tokens_per_turn=40, tools=tools)
        # After 500 steps the places and shapes that a sentence names are not yet taken from it.
        turns, sft = dict.fromkeys(taught or families, 1) | {families[0]: 2}, SFTConfig(steps=1000, batch_size=16)
        return cls(name, families, WarmStartConfig(demonstrations=4000, families=turns, sft=sft, card=card), updates=2)


STICKERS = World("", FAMILIES, WarmStartConfig())
WORLDS: Mapping[str, World] = {
    "no_look": World.of_tools("look", SEEN, "edit", taught=LOOK_FAMILIES),
    "look": World.of_tools("look", SEEN, "edit", "zoom", "colour_at", taught=LOOK_FAMILIES),
    # Two types want one tool, and the third another: drawn alike, the policy learns the first tool for all of them.
    "retouch": replace(
        World.of_tools("retouch", RETOUCH_FAMILIES, "edit", "adjust_tone", "adjust_colour"), weights={"cast": 2}
    ),
}
# Those that are run only where they are named.
APART = (*WORLDS, *JUDGED_ARMS, "refill", "curriculum", "refill_curriculum")
