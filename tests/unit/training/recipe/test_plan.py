"""The plan of a run: every recipe's has family, level, memory and the parts of a step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentfly.model_source import SHIPPED_POLICY
from agentfly.training.recipe import policy_sizes
from agentfly.training.recipe.compose import compose, settings_of
from agentfly.training.recipe.plan import plan_of

pytest.importorskip("hydra")
pytest.importorskip("verl")

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).resolve().parents[4] / "recipes"
# Those of `agentfly train`; the two others are for `agentfly eval` and `agentfly sft`.
TRAINING = sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem not in ("eval", "sft_warm_start"))


def plan_in_words(name: str, *overrides: str) -> dict[str, str]:
    """Return the lines of a recipe's plan by their first word; a line that goes on has none."""
    config = compose(RECIPES / f"{name}.yaml", overrides)
    lines = plan_of(config, settings_of(config)).lines()
    return {line[:12].strip(): line[12:] for line in lines}


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every machine have what a fresh one has."""
    monkeypatch.setattr(policy_sizes, "cached_copy", lambda model: None)


@pytest.mark.parametrize("name", TRAINING)
def test_every_recipe_tells_family_level_memory_and_parts(name: str) -> None:
    # The policy of this one is made by `agentfly quickstart`.
    plan = plan_in_words(name, *([f"agentfly.model={SHIPPED_POLICY}"] if name == "quickstart" else ()))
    assert re.match(r"Qwen\S+ \(qwen\w+\), level trained: token-exact rollouts on vLLM, trained with", plan["family"])
    assert re.match(r"about \d+\.\d GiB an accelerator during updates \(weights \d.*optimizer", plan["memory"])
    assert "engine" in plan[""]
    numbers = (
        r"\d+ prompts x \d+ = [\d,]+ chains, each of at most \d+ turns, \d+ tool calls and [\d,]+ tokens; "
        r"together at most [\d,]+ tool calls and [\d,]+ tokens"
    )
    assert re.fullmatch(numbers, plan["a step"])
    assert re.search(
        r"rollout \(generation, tools .*, then .*update \(\d+ optimizer steps? of .*sync of", plan["parts"]
    )


def test_a_policy_that_is_not_there_yet_is_not_guessed_at() -> None:
    plan = plan_in_words("quickstart", "agentfly.model=runs/nowhere/policy")
    assert plan["family"] == "unknown: config.json is not in runs/nowhere/policy"
    assert plan["memory"] == "unknown: *.safetensors is not in runs/nowhere/policy"


def test_the_plan_of_a_recipe_in_numbers() -> None:
    plan = plan_in_words("qwen2_5_vl_3b_ppo", "actor_rollout_ref.actor.use_kl_loss=true")
    assert plan["model"] == "Qwen/Qwen2.5-VL-3B-Instruct, 3,754.6 M parameters"
    assert plan["algorithm"] == "gae, 400 steps"
    assert plan["runs on"] == "8 x cuda, sync trainer"
    assert plan["tasks"] == "magicbrush (validation: magicbrush)"
    # 16 bytes a parameter over 8 accelerators, for the policy and for its critic.
    assert "(weights 1.7, gradients 1.7, optimizer 3.5, critic 7.0, logits 18.5, layers 2.2)" in plan["memory"]
    assert "the reference has 1.7 GiB of main memory" in plan["memory"]
    assert "takes 60% of the accelerator, 7.0 GiB of it for weights; the trainer keeps 10.5 GiB" in plan[""]
