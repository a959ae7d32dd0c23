"""The plan of a run and the memory it needs: counted from the checkpoint, and by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentfly.training.recipe.plan import GIB, count_parameters, plan_of
from agentfly.training.recipe.settings import DataSettings, TrainSettings

OmegaConf = pytest.importorskip("omegaconf").OmegaConf

PARAMETERS, HIDDEN, LAYERS, WORDS = 1000, 8, 3, 50


def test_parameters_are_those_that_torch_counts(tiny_policy: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(AutoConfig.from_pretrained(tiny_policy))
    assert count_parameters(tiny_policy) == sum(weight.numel() for weight in model.parameters())


def write_weights(path: Path, *shapes: tuple[int, ...]) -> None:
    """The header of a safetensors file; nobody reads further."""
    header = {f"w{i}": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for i, shape in enumerate(shapes)}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A checkpoint of 1000 parameters in two files."""
    write_weights(tmp_path / "model-1.safetensors", (30, 20), (100,), ())
    write_weights(tmp_path / "model-2.safetensors", (299,))
    text = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "vocab_size": WORDS}
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 1, "text_config": text}))
    return tmp_path


def config(**changes: Any) -> Any:
    made = OmegaConf.create(
        {
            "algorithm": {"adv_estimator": "grpo", "use_kl_in_reward": False},
            "data": {"train_batch_size": 16, "max_prompt_length": 100, "max_response_length": 200},
            "trainer": {"n_gpus_per_node": 4, "nnodes": 2, "total_training_steps": 5, "v1": {"trainer_mode": "sync"}},
            "actor_rollout_ref": {
                "model": {"lora_rank": 0, "lora": {"rank": 0}},
                "actor": {"use_kl_loss": False, "ppo_max_token_len_per_gpu": 300},
                "rollout": {"n": 4, "tensor_model_parallel_size": 2},
            },
        }
    )
    for key, value in changes.items():
        OmegaConf.update(made, key.replace("__", "."), value)
    return made


def settings(model: Path | str, **values: Any) -> TrainSettings:
    return TrainSettings(model=str(model), out=Path("runs/x"), data=DataSettings(train="stickers"), **values)


def memory(policy: Path, **changes: Any) -> dict[str, float]:
    found = plan_of(config(**changes), settings(policy)).memory
    assert found is not None
    assert found.total == pytest.approx(sum(vars(found).values()))
    return vars(found)


def test_memory_without_critic_and_reference(policy: Path) -> None:
    assert count_parameters(policy) == PARAMETERS
    assert memory(policy) == {
        "optimised": 16 * 1000 / 8,
        "critic": 0.0,
        "reference": 0.0,
        "rollout": 2 * 1000 / 2,
        "logits": 8 * 300 * WORDS,
        "layers": 2 * 300 * HIDDEN * LAYERS,
    }


def test_a_critic_and_a_reference_need_memory_too(policy: Path) -> None:
    found = memory(policy, algorithm__adv_estimator="gae", algorithm__use_kl_in_reward=True)
    assert (found["critic"], found["reference"]) == (16 * 1000 / 8, 2 * 1000 / 8)
    assert memory(policy, actor_rollout_ref__actor__use_kl_loss=True)["reference"] == 2 * 1000 / 8


@pytest.mark.parametrize("key", ["lora_rank", "lora__rank"])
def test_lora_trains_little_and_is_its_own_reference(policy: Path, key: str) -> None:
    changes = {f"actor_rollout_ref__model__{key}": 4, "actor_rollout_ref__actor__use_kl_loss": True}
    found = memory(policy, **changes)
    # Seven linear maps a layer, two matrices of rank 4 beside each.
    trained = 7 * 2 * 4 * HIDDEN * LAYERS
    assert found["optimised"] == (16 * trained + 2 * 1000) / 8
    assert found["reference"] == 0.0


def test_the_plan_in_words(policy: Path) -> None:
    lines = "\n".join(plan_of(config(), settings(policy)).lines())
    assert "0.0 M parameters" in lines
    assert "grpo, 5 steps" in lines
    assert "64 chains, 19,200 tokens at most" in lines
    assert "8 x cuda, sync trainer" in lines
    assert f"about {memory_total(policy) / GIB:.1f} GiB an accelerator (optimised" in lines
    assert "critic" not in lines
    assert "stickers (validation: the first of them)" in lines


def memory_total(policy: Path) -> float:
    return sum(memory(policy).values())


def test_weights_elsewhere_are_not_guessed_at() -> None:
    plan = plan_of(config(), settings("Qwen/Qwen2.5-VL-3B-Instruct"))
    assert plan.parameters is None
    assert any("not estimated: the weights are not on this machine" in line for line in plan.lines())
