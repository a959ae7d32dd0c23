"""The run's values reach verl's keys, and no key is one that verl does not know."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentfly.training.ppo_config import CONFIG_DIR, PPOConfig, to_override

hydra = pytest.importorskip("hydra")
pytest.importorskip("verl")
from hydra.core.override_parser.overrides_parser import OverridesParser  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

# Keys of our files that verl passes on, to Ray, to vLLM and to dataclasses that have more fields than its YAML shows.
PASSED_ON = (
    "ray_kwargs.ray_init.",
    "actor_rollout_ref.rollout.engine_kwargs.vllm.",
    "actor_rollout_ref.rollout.enable_sleep_mode",
    "actor_rollout_ref.model.override_config.",
    "critic.model.override_config.",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision.",
    "critic.fsdp.mixed_precision.",
)


def make_config(**values: Any) -> PPOConfig:
    settings: dict[str, Any] = {
        "model_path": "models/tiny",
        "train_files": ["train.parquet"],
        "val_files": ["val.parquet"],
        "output_dir": "runs/one",
        "agent_loop_config": "loop.yaml",
    }
    return PPOConfig.model_validate(settings | values)


def verl_config_dir() -> Path:
    spec = importlib.util.find_spec("verl")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "trainer" / "config"


def compose(directory: Path, name: str, overrides: list[str]) -> Any:
    with hydra.initialize_config_dir(str(directory), version_base=None):
        return hydra.compose(name, overrides=overrides)


def compose_run(config: PPOConfig) -> Any:
    flag_dir, directory, flag_name, name, *overrides = config.arguments()
    assert (flag_dir, flag_name) == ("--config-dir", "--config-name")
    # verl's own command adds its configuration to the search path; here nobody does.
    return compose(Path(directory), name, [f"hydra.searchpath=[file://{verl_config_dir()}]", *overrides])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_verl_accepts_every_key(device: str, algorithm: str) -> None:
    # Hydra refuses an override whose key is not in the configuration.
    composed = compose_run(make_config(device=device, algorithm=algorithm))
    assert composed.algorithm.adv_estimator == {"ppo": "gae", "grpo": "grpo"}[algorithm]
    assert composed.trainer.device == device


def leaves(node: Any, prefix: str = "") -> set[str]:
    """Dotted keys of the values in nested mappings."""
    if not isinstance(node, dict) or not node:
        return {prefix}
    return {leaf for key, child in node.items() for leaf in leaves(child, f"{prefix}.{key}" if prefix else key)}


@pytest.mark.parametrize("name", ["agentfly", "agentfly_cpu"])
def test_no_key_of_our_files_is_unknown_to_verl(name: str) -> None:
    # Hydra takes any key from a file, so a key that verl has renamed would go unnoticed.
    verl_config = compose(verl_config_dir(), "ppo_trainer", [])
    known = leaves(OmegaConf.to_container(verl_config, resolve=False))
    ours = yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text())
    ours = {key: value for key, value in ours.items() if key not in ("defaults", "hydra")}
    assert {key for key in leaves(ours) if not key.startswith(PASSED_ON)} - known == set()


def test_values_of_the_run_arrive() -> None:
    composed = compose_run(
        make_config(
            algorithm="ppo",
            steps=7,
            train_batch_size=12,
            mini_batch_size=4,
            group_size=3,
            learning_rate=3e-4,
            critic_learning_rate=2e-3,
            clip_low=0.1,
            clip_high=0.3,
            kl_coef=0.02,
            max_prompt_length=100,
            max_response_length=60,
            max_images=5,
            save_freq=2,
            resume=True,
            agent_loop="mine",
        )
    )
    actor, rollout = composed.actor_rollout_ref.actor, composed.actor_rollout_ref.rollout
    assert composed.trainer.total_training_steps == 7
    assert (composed.data.train_batch_size, actor.ppo_mini_batch_size, rollout.n) == (12, 4, 3)
    assert (actor.optim.lr, composed.critic.optim.lr) == (3e-4, 2e-3)
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == (0.1, 0.3)
    assert actor.use_kl_loss is True
    assert actor.kl_loss_coef == 0.02
    assert rollout.max_model_len == 160
    assert rollout.engine_kwargs.vllm.limit_mm_per_prompt == {"image": 5, "video": 0}
    assert (composed.trainer.save_freq, composed.trainer.test_freq) == (2, -1)
    assert composed.trainer.resume_mode == "auto"
    assert rollout.agent.default_agent_loop == "mine"
    assert Path(composed.critic.model.path).is_absolute()


@pytest.mark.parametrize(("temperature", "mode"), [(1.0, "raw_logprobs"), (0.7, "processed_logprobs")])
def test_rollout_and_trainer_speak_of_the_same_probabilities(temperature: float, mode: str) -> None:
    rollout = compose_run(make_config(temperature=temperature)).actor_rollout_ref.rollout
    assert (rollout.temperature, rollout.logprobs_mode) == (temperature, mode)


def test_no_kl_means_no_reference_policy() -> None:
    composed = compose_run(make_config(kl_coef=0))
    assert composed.actor_rollout_ref.actor.use_kl_loss is False
    assert composed.algorithm.use_kl_in_reward is False


def test_extra_overrides_come_last() -> None:
    composed = compose_run(make_config(steps=3, extra_overrides=("trainer.total_training_steps=9",)))
    assert composed.trainer.total_training_steps == 9


@given(
    st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20).filter(
        lambda text: "\\" not in text
    )
)
def test_any_text_survives_hydras_grammar(text: str) -> None:
    parsed = OverridesParser.create().parse_override(to_override("key", f"/data/{text}"))
    # OmegaConf reads interpolations when a value is looked up.
    assert OmegaConf.create({"key": parsed.value()}).key == f"/data/{text}"


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "k=null"), (True, "k=true"), (1e-6, "k=1e-06"), (3, "k=3"), (["a", "b"], "k=['a','b']")],
)
def test_other_values(value: Any, written: str) -> None:
    assert to_override("k", value) == written


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"train_batch_size": 10, "mini_batch_size": 4}, "mini_batch_size"),
        ({"algorithm": "grpo", "group_size": 1}, "group_size"),
        ({"max_prompt_length": 100, "micro_batch_tokens": 50}, "micro_batch_tokens"),
        ({"learning_rat": 1.0}, "learning_rat"),
    ],
)
def test_a_bad_setting_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        make_config(**values)
