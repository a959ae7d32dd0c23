"""An exported policy computes the same as the trained one, and its files name its settings and its origin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentfly.agents.policy_config import PolicyConfig
from agentfly.errors import ConfigError, TrainingError
from agentfly.training.supervised.config import LoraConfig, SupervisedConfig, TrainingConfig
from agentfly.training.supervised.data.config import DataConfig
from agentfly.training.supervised.export import ExportRequest, export
from agentfly.training.supervised.model_card import read_scores
from agentfly.training.supervised.trainer import plan_run, run_supervised
from tests.unit.training.supervised.conftest import CARD

IDS = [[5, 6, 7, 8, 9]]


def train(model: Path, out: Path, rank: int) -> Path:
    run_supervised(
        plan_run(
            SupervisedConfig(
                model=str(model),
                out=out,
                data=DataConfig(stickers=3),
                lora=LoraConfig(rank=rank),
                training=TrainingConfig(steps=2, batch_size=2, learning_rate=1e-2),
            )
        )
    )
    return out


@pytest.fixture(scope="module")
def full_run(small_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small_policy, tmp_path_factory.mktemp("full") / "run", 0)


@pytest.fixture(scope="module")
def lora_run(small_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small_policy, tmp_path_factory.mktemp("lora") / "run", 2)


def load(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS)).logits


def with_adapter(base: Path, adapter: Path) -> Any:
    import peft

    return peft.PeftModel.from_pretrained(load(base), str(adapter)).eval()


def front_matter(folder: Path) -> dict[str, Any]:
    _, front, _ = (folder / "README.md").read_text().split("---\n", 2)
    return dict(yaml.safe_load(front))


@pytest.mark.slow
def test_a_supervised_run_becomes_a_folder_with_a_card(full_run: Path, tmp_path: Path) -> None:
    scores = tmp_path / "summary.json"
    scores.write_text(json.dumps({"tasks": 3, "score": {"mean": 50.5, "low": 40, "high": 60}}))
    out = export(ExportRequest(full_run, tmp_path / "out", scores=scores, base_model="Qwen/Qwen2.5-VL-3B-Instruct"))
    assert (logits(load(out)) == logits(load(full_run / "policy"))).all()
    assert PolicyConfig.read(str(out)) == CARD
    front = front_matter(out)
    assert front["base_model"] == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert {"agentfly", "supervised-fine-tuning"} <= set(front["tags"])
    text = (out / "README.md").read_text()
    for row in ("| demonstrations | 3 |", "| learning_rate | 0.01 |", "| score | 50.5 (40 to 60) |", "| torch | 2"):
        assert row in text, row
    assert str(full_run) not in text


@pytest.mark.slow
def test_adapters_are_merged_or_kept(lora_run: Path, small_policy: Path, tmp_path: Path) -> None:
    trained = logits(with_adapter(small_policy, lora_run / "adapter"))
    assert float((trained - logits(load(small_policy))).abs().max()) > 1e-3
    merged = export(ExportRequest(lora_run, tmp_path / "merged"))
    assert float((logits(load(merged)) - trained).abs().max()) < 1e-5
    assert not list(merged.glob("adapter_*"))
    kept = export(ExportRequest(lora_run, tmp_path / "kept", adapter=True, base_model="Org/Base"))
    assert (logits(with_adapter(small_policy, kept)) == trained).all()
    assert json.loads((kept / "adapter_config.json").read_text())["base_model_name_or_path"] == "Org/Base"
    assert front_matter(kept)["base_model_relation"] == "adapter"
    assert not (kept / "model.safetensors").exists()


def verl_run(policy: Path, out: Path, *, rank: int = 0) -> Path:
    """Write a run folder as `agentfly train` leaves it, with verl's files."""
    actor = out / "checkpoints" / "global_step_3" / "actor"
    shutil.copytree(policy, actor / "huggingface", ignore=shutil.ignore_patterns("agentfly.json"))
    (out / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("3")
    config = {
        "agentfly": {
            "model": str(policy),
            "out": str(out),
            "data": {"train": "stickers", "limit": 64},
            "limits": {"max_turns": 5},
        },
        "algorithm": {"adv_estimator": "grpo"},
        "actor_rollout_ref": {"actor": {"optim": {"lr": 1e-6}}},
    }
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    if rank:
        (actor / "lora_train_meta.json").write_text(json.dumps({"r": rank, "lora_alpha": 8, "task_type": "CAUSAL_LM"}))
    return out


@pytest.mark.parametrize("below", ["", "checkpoints", "checkpoints/global_step_3"])
def test_a_run_of_verl_is_exported_with_its_card(small_policy: Path, tmp_path: Path, below: str) -> None:
    run = verl_run(small_policy, tmp_path / "run")
    out = export(ExportRequest(run / below, tmp_path / "out"))
    assert (logits(load(out)) == logits(load(small_policy))).all()
    # The card of the base model, with the changes of the run's settings.
    assert PolicyConfig.read(str(out)) == CARD.model_copy(update={"max_turns": 5})
    text = (out / "README.md").read_text()
    for row in (
        "trained by grpo",
        "| steps | 3 |",
        "| data limit | 64 |",
        "| actor_rollout_ref.actor.optim.lr | 1e-06 |",
    ):
        assert row in text, row
    assert str(small_policy) not in text


def test_the_template_of_a_run_goes_with_its_policy(small_policy: Path, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    from agentfly.templates import load_template

    run, name = verl_run(small_policy, tmp_path / "run"), "qwen2.5-vl-system-tool"
    assert AutoProcessor.from_pretrained(small_policy).chat_template != load_template(name)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["agentfly"]["template"] = name
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    processor = AutoProcessor.from_pretrained(export(ExportRequest(run, tmp_path / "out")))
    assert processor.chat_template == processor.tokenizer.chat_template == load_template(name)


def peft_weights(policy: Path) -> tuple[Any, dict[str, Any]]:
    """Return a model with adapters that are not zero, and its weights under the names with which verl saves them."""
    import peft
    import torch

    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    model = peft.get_peft_model(load(policy), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if "lm_head" not in name}
    return model, tensors


@pytest.mark.slow
def test_adapters_of_verl_are_merged_or_kept(small_policy: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    run = verl_run(small_policy, tmp_path / "run", rank=4)
    folder = run / "checkpoints" / "global_step_3" / "actor" / "huggingface"
    model, tensors = peft_weights(small_policy)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    trained = logits(model)
    merged = export(ExportRequest(run, tmp_path / "merged"))
    assert float((logits(load(merged)) - trained).abs().max()) < 1e-5
    kept = export(ExportRequest(run, tmp_path / "kept", adapter=True))
    assert float((logits(with_adapter(small_policy, kept)) - trained).abs().max()) < 1e-6
    (folder.parent / "lora_train_meta.json").unlink()
    with pytest.raises(TrainingError, match="rank and alpha"):
        export(ExportRequest(run, tmp_path / "again"))


def test_an_export_is_replaced_and_nothing_else_is(full_run: Path, tmp_path: Path) -> None:
    out = export(ExportRequest(full_run, tmp_path / "out"))
    (out / "old.txt").touch()
    export(ExportRequest(full_run, out))
    assert not (out / "old.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="is no policy folder"):
        export(ExportRequest(full_run, tmp_path / "mine"))
    with pytest.raises(ConfigError, match="give another folder"):
        export(ExportRequest(out, out))


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        (lambda run, out: ExportRequest(out / "nothing", out / "o"), "is no run"),
        (lambda run, out: ExportRequest(run, out / "o", adapter=True), "no adapter to keep"),
        (lambda run, out: ExportRequest(run, out / "o", card=out), r"no agentfly\.json"),
        (lambda run, out: ExportRequest(run, out / "o", scores=out / "gone.json"), "cannot be read"),
    ],
)
def test_what_cannot_be_exported_is_said(full_run: Path, tmp_path: Path, request_of: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export(request_of(full_run, tmp_path))
    assert not (tmp_path / "o").exists()


def test_another_card_can_be_given(full_run: Path, tmp_path: Path) -> None:
    PolicyConfig(system_prompt="Be brief.", max_turns=9).write(tmp_path)
    out = export(ExportRequest(full_run, tmp_path / "out", card=tmp_path / "agentfly.json"))
    assert PolicyConfig.read(str(out)).max_turns == 9


def test_scores_of_a_quickstart_are_those_of_the_trained_policy(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    greedy = {"score": {"mean": 54.279, "low": 50.5, "high": 58.2}, "success": {"all": {"mean": 0.5}}}
    path.write_text(json.dumps({"warm_start": {"greedy": {"score": {"mean": 1}}}, "trained": {"greedy": greedy}}))
    assert read_scores(path) == [("score", "54.279 (50.5 to 58.2)"), ("success · all", "0.5")]
    path.write_text("{}")
    with pytest.raises(ConfigError, match="holds no scores"):
        read_scores(path)
