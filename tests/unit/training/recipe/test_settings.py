"""The section `agentfly` of a recipe: the agent, its tools, and the forms of the reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentfly.agents.policy_config import PolicyConfig
from agentfly.errors import ConfigError
from agentfly.evaluators import RewardConfig
from agentfly.training.recipe.record_settings import KeptImages, ShownChains
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


JUDGE = {"evaluator": "judge", "model": "m"}


@pytest.mark.parametrize(
    ("evaluator", "parts"),
    [
        (JUDGE, ["structural", "detector"]),
        ({"evaluator": "listwise", "model": "m"}, ["structural", "detector"]),
        # What is part of the reward is no second opinion on it.
        ({"evaluator": "composite", "parts": {"judge": JUDGE, "kept": "structural"}}, ["detector"]),
        ({"evaluator": "composite", "parts": {"a": JUDGE, "b": "structural", "c": "detector"}}, None),
        ("reference", None),
    ],
)
def test_a_judge_is_audited_by_what_the_tasks_know(evaluator: Any, parts: list[str] | None) -> None:
    found = settings(evaluator=evaluator, audit="auto")
    assert found.audit == settings(reward=evaluator, audit="auto").audit
    assert settings(evaluator=evaluator).audit is None
    if parts is None:
        assert found.audit is None
    else:
        assert found.audit is not None
        assert found.audit.evaluator == {
            "evaluator": "composite",
            "how": "first",
            "parts": {name: name for name in parts},
        }


SERVER = {"evaluator": "http", "base_url": "http://127.0.0.1:8100"}
LEARNED = {"evaluator": "editscore", "model": "m"}


@pytest.mark.parametrize(
    ("values", "sleeping"),
    [
        ({"evaluator": SERVER}, [SERVER]),
        ({"evaluator": {"evaluator": "composite", "parts": {"a": SERVER, "b": "structural"}}}, [SERVER]),
        ({"evaluator": "reference", "audit": {"evaluator": SERVER}}, [SERVER]),
        # A reward function that asks for no score leaves the evaluator alone.
        (
            {
                "evaluator": SERVER,
                "reward_function": "tests.unit.training.trial.tools:by_words",
                "audit": {"evaluator": {**SERVER, "timeout": 1}},
            },
            [{**SERVER, "timeout": 1}],
        ),
    ],
)
def test_evaluators_on_servers_sleep_where_the_recipe_says_so(values: Any, sleeping: list[Any]) -> None:
    assert settings(**values, evaluator_sleep=True).sleeping_evaluators == sleeping
    assert settings(**values).sleeping_evaluators == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "is for a learned reward on a server, and reference gives the scores"),
        ({"evaluator": LEARNED}, "does not reach editscore, which each process that scores would load"),
        ({"evaluator": {"evaluator": "composite", "parts": {"a": SERVER, "b": LEARNED}}}, "does not reach editscore"),
        (
            {"evaluator": SERVER, "reward_function": "tests.unit.training.trial.tools:by_words"},
            "and no evaluator gives",
        ),
    ],
)
def test_who_is_on_no_server_does_not_sleep(values: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        settings(**values, evaluator_sleep=True)
    assert "agentfly serve-evaluator" in str(refused.value)


def test_results_that_are_compared_get_no_credit_by_turn() -> None:
    ranked = {"evaluator": "listwise", "model": "m"}
    assert settings(evaluator=ranked).scores_groups
    assert not settings(evaluator=ranked, reward="tests.unit.training.trial.tools:by_words").scores_groups
    assert settings(evaluator=ranked, reward="tests.unit.training.trial.tools:by_wish").scores_groups
    with pytest.raises(ConfigError, match="listwise judge compares the results"):
        settings(evaluator=ranked, credit="end")


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


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, KeptImages()),
        (True, KeptImages()),
        (False, None),
        (None, None),
        ({"max_gb": 0.5}, KeptImages(max_gb=0.5)),
        ({"max_gb": None}, KeptImages(max_gb=None)),
    ],
)
def test_images_are_on_or_off_or_have_a_limit(given: Any, kept: KeptImages | None) -> None:
    found = settings(images=given)
    assert found.images == kept
    assert TrainSettings(**found.model_dump()) == found
    assert settings(pictures=given).images == kept


def test_images_and_shown_chains_are_on_by_default() -> None:
    assert settings().images == KeptImages(max_gb=10.0)
    assert KeptImages(max_gb=0.5).max_bytes == 500_000_000
    assert KeptImages(max_gb=None).max_bytes is None
    assert settings().show_chains == ShownChains()
    assert settings(show_chains={"kinds": ["worst"], "every": 10}).show_chains == ShownChains(
        kinds=("worst",), every=10
    )
    assert settings(show_chains=False).show_chains is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"images": "yes"}, "agentfly.images: write true, false, or the settings as a mapping"),
        ({"images": {"max_gb": 0}}, "agentfly.images: max_gb: Input should be greater than 0"),
        ({"images": {"max_mb": 5}}, "unknown setting 'max_mb'.*max_gb"),
        ({"show_chains": {"kinds": ["first"]}}, "agentfly.show_chains: kinds.0: Input should be 'best', 'worst'"),
        ({"show_chains": 3}, "agentfly.show_chains: write true, false"),
    ],
)
def test_wrong_settings_of_what_is_recorded_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**values)
