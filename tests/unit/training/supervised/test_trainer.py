"""Runs learn, leave a policy that can be run, and resume exactly after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agentfly.agents.policy_config import PolicyConfig
from agentfly.errors import ConfigError
from agentfly.templates import ChatCodec, load_template
from agentfly.training.supervised.config import LoraConfig, SupervisedConfig, TrainingConfig
from agentfly.training.supervised.data.config import DataConfig
from agentfly.training.supervised.trainer import plan_run, run_supervised
from tests.unit.training.supervised.conftest import CARD

pytestmark = pytest.mark.slow


def config(model: Path, out: Path, *, lora: LoraConfig | None = None, **training: Any) -> SupervisedConfig:
    settings = {"steps": 4, "batch_size": 2, "learning_rate": 3e-3, "save_every": 2, "evaluate_every": 2} | training
    return SupervisedConfig(
        model=str(model),
        out=out,
        data=DataConfig(stickers=6, held_out=0.2),
        lora=lora or LoraConfig(),
        training=TrainingConfig(**settings),
    )


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    (file,) = folder.glob("*.safetensors")
    return dict(load_file(file))


class Killed(Exception):
    """Stands for a kill."""


def test_a_run_learns_and_leaves_a_policy_that_can_be_run(small_policy: Path, tmp_path: Path) -> None:
    seen: list[Mapping[str, Any]] = []
    folder = run_supervised(plan_run(config(small_policy, tmp_path / "run", steps=8)), on_metrics=seen.append)
    assert folder == tmp_path / "run" / "policy"
    lines = metrics(tmp_path / "run")
    held_out = {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}
    assert set(held_out) == {0, 2, 4, 6, 8}
    assert held_out[8] < 0.9 * held_out[0]
    assert lines[1:] == seen
    assert {"loss", "learning_rate", "grad_norm", "tokens", "labelled", "seconds"} <= lines[1].keys()
    assert PolicyConfig.read(str(folder)) == CARD
    assert ChatCodec.from_pretrained(str(folder)).template == load_template("compact-tool")
    before, after = weights(small_policy), weights(folder)
    assert before.keys() == after.keys()
    record = json.loads((tmp_path / "run" / "sft.json").read_text())
    assert record["result"]["held_out_loss"] == held_out[8]
    assert record["data"]["counts"] == {"demonstrations": 6}


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, dropout=0.2)], ids=["all weights", "adapters"])
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    small_policy: Path, tmp_path: Path, lora: LoraConfig | None
) -> None:
    whole = run_supervised(plan_run(config(small_policy, tmp_path / "whole", lora=lora)))

    def kill(line: Mapping[str, Any]) -> None:
        if line["step"] == 3:
            raise Killed

    plan = plan_run(config(small_policy, tmp_path / "killed", lora=lora))
    with pytest.raises(Killed):
        run_supervised(plan, on_metrics=kill)
    assert [line["step"] for line in metrics(tmp_path / "killed")] == [0, 1, 2, 3]
    resumed = run_supervised(plan, resume=True)
    lines = metrics(tmp_path / "killed")
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line.get("loss") for line in lines] == [line.get("loss") for line in metrics(tmp_path / "whole")]
    one, other = weights(whole), weights(resumed)
    assert all((one[name] == other[name]).all() for name in one)


def test_a_run_is_not_mixed_with_another(small_policy: Path, tmp_path: Path) -> None:
    first = config(small_policy, tmp_path / "run", steps=2)
    run_supervised(plan_run(first))
    with pytest.raises(ConfigError, match="--resume"):
        plan_run(first)
    changed = config(small_policy, tmp_path / "run", steps=2, learning_rate=1e-4)
    with pytest.raises(ConfigError, match=r"config\.training\.learning_rate differ"):
        run_supervised(plan_run(changed, resume=True), resume=True)
    assert run_supervised(plan_run(first, resume=True), resume=True) == tmp_path / "run" / "policy"


def test_a_run_that_never_came_to_a_checkpoint_blocks_nothing(small_policy: Path, tmp_path: Path) -> None:
    plan = plan_run(config(small_policy, tmp_path / "run"))

    def kill(line: Mapping[str, Any]) -> None:
        raise Killed

    with pytest.raises(Killed):
        run_supervised(plan, on_metrics=kill)
    run_supervised(plan_run(config(small_policy, tmp_path / "run", learning_rate=1e-4, steps=1)))
    assert [line["step"] for line in metrics(tmp_path / "run")] == [0, 1]


def test_adapters_leave_the_base_and_the_vision_tower_alone(small_policy: Path, tmp_path: Path) -> None:
    settings = config(small_policy, tmp_path / "run", lora=LoraConfig(rank=2), gradient_checkpointing=True)
    folder = run_supervised(plan_run(settings))
    names = weights(folder)
    assert len(names) == 2 * 7
    assert all(".lora_" in name and "visual" not in name for name in names)
    assert any(float(tensor.abs().max()) > 0 for name, tensor in names.items() if "lora_B" in name)
    assert PolicyConfig.read(str(folder)) == CARD


def test_the_template_that_was_trained_with_is_kept(small_policy: Path, tmp_path: Path) -> None:
    settings = config(small_policy, tmp_path / "run", steps=1).model_copy(update={"template": "qwen2.5-vl"})
    folder = run_supervised(plan_run(settings))
    assert ChatCodec.from_pretrained(str(folder)).template == load_template("qwen2.5-vl")


def test_half_precision_computes_in_it_and_trains_in_full(small_policy: Path, tmp_path: Path) -> None:
    import torch

    folder = run_supervised(plan_run(config(small_policy, tmp_path / "run", steps=2, dtype="bfloat16")))
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.bfloat16}
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert {tensor.dtype for tensor in state["trained"].values()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nowhere/at all"}, "model=nowhere/at all is not on this machine and the hub cannot be reached"),
        ({"lora": LoraConfig(rank=2, targets=("none",))}, "lora.targets"),
    ],
)
def test_what_cannot_be_trained_is_said_before(
    small_policy: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    settings = config(small_policy, tmp_path / "run").model_copy(update=changes)
    with pytest.raises(ConfigError, match=message):
        run_supervised(plan_run(settings))


def test_keys_do_not_belong_into_the_tools_which_the_record_and_the_card_keep(tmp_path: Path) -> None:
    tools = ({"mcp": ["server", "--api-key", "sk-secret"]},)
    with pytest.raises(ConfigError, match="keys do not belong into settings") as caught:
        plan_run(SupervisedConfig(model="m", out=tmp_path / "run", tools=tools))
    assert "sk-secret" not in str(caught.value)
