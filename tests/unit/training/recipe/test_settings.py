"""The section `agentfly` of a recipe: the agent, its tools, and the forms of the reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentfly.agents.policy_config import PolicyConfig
from agentfly.errors import ConfigError
from agentfly.evaluators import RewardConfig
from agentfly.training.recipe.settings import DataSettings, TrainSettings


def settings(model: str = "m", **values: Any) -> TrainSettings:
    return TrainSettings(model=model, out=Path("o"), data=DataSettings(train="stickers"), **values)


@pytest.mark.parametrize(
    ("reward", "evaluator", "function"),
    [
        ({}, "reference", None),
        ({"tool_cost": 0.5}, "reference", None),
        ("structural", "structural", None),
        ({"evaluator": "judge", "model": "gpt-5"}, {"evaluator": "judge", "model": "gpt-5"}, None),
        ("my_rewards:centred", "reference", "my_rewards:centred"),
    ],
)
def test_a_reward_is_weights_an_evaluator_or_a_function(reward: Any, evaluator: Any, function: str | None) -> None:
    found = settings(reward=reward)
    assert (found.evaluator, found.reward_function) == (evaluator, function)
    weights = reward if isinstance(reward, dict) and "evaluator" not in reward else {}
    assert found.reward == RewardConfig(**weights)
    # What the processes of a run read is what was written.
    assert TrainSettings(**found.model_dump()) == found


def test_credit_by_turn_needs_an_evaluator() -> None:
    with pytest.raises(ConfigError, match="credit scores the image of each turn"):
        settings(reward="my_rewards:centred", credit="end")


def test_the_card_of_the_trained_policy_remembers_agent_tools_and_reward(tmp_path: Path) -> None:
    PolicyConfig(tools=("edit", "look"), system_prompt="Look.").write(tmp_path)
    kept = settings(str(tmp_path)).card()
    assert (kept.agent, kept.tools, kept.system_prompt) == (None, ("edit", "look"), "Look.")
    own = settings(str(tmp_path), agent="my:Agent", tools=["my:tool"], reward="my:reward", system_prompt="").card()
    assert (own.agent, own.tools, own.reward, own.system_prompt) == ("my:Agent", ("my:tool",), "my:reward", None)


def test_a_policy_of_somebodys_agent_is_not_trained_on_as_another_one(tmp_path: Path) -> None:
    PolicyConfig(agent="their:Agent").write(tmp_path)
    with pytest.raises(ConfigError, match="was trained with code that is not part of agentfly: their:Agent"):
        settings(str(tmp_path)).spec()
    assert settings(str(tmp_path), agent="card").spec().agent == "their:Agent"
    assert settings(str(tmp_path), agent="image-editing").spec().agent == "image-editing"
