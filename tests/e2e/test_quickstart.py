"""The main job, small: warm start, two real verl steps with weight sync, checkpoint, resume, evaluation, report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentfly.agents import Trajectory
from agentfly.agents.card import AgentCard
from agentfly.images import ImageStore, load_image
from agentfly.templates import ChatCodec
from agentfly.training.policy_evaluation import EvaluationPlan
from agentfly.training.quickstart import QuickstartConfig, run_quickstart
from agentfly.training.sft import SFTConfig
from agentfly.training.warm_start import WarmStartConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STEPS = 2
SMALL = ("data.train_batch_size=4", "actor_rollout_ref.rollout.n=4", "agentfly.pictures=true")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> QuickstartConfig:
    return QuickstartConfig(
        out=tmp_path_factory.mktemp("quickstart") / "run",
        warm_start=WarmStartConfig(demonstrations=60, looks=20, sft=SFTConfig(steps=80, batch_size=16)),
        tasks=8,
        overrides=(*SMALL, f"trainer.total_training_steps={STEPS}"),
        evaluation=EvaluationPlan(tasks_per_family=2, kept_per_family=1),
    )


@pytest.fixture(scope="module")
def summary(config: QuickstartConfig) -> dict[str, Any]:
    return run_quickstart(config)


def test_the_summary_holds_what_it_promises(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    assert json.loads((config.out / "summary.json").read_text()) == summary
    assert summary["steps"] == STEPS
    for label in ("warm_start", "trained"):
        assert set(summary[label]["success"]) == {"all", "named", "replace", "look", "two_step", "repair"}
        assert summary[label]["score"] == summary[label]["greedy"]["score"]["mean"]
    assert summary["blanked"]["trained"]["look"]["mean"] >= 0.0
    assert {"warm start", "training start", "training"} <= set(summary["seconds"])


def test_rollout_and_trainer_agree(summary: dict[str, Any]) -> None:
    """Every step compares the probabilities that vLLM sampled with and those that the trainer computes."""
    assert 0.0 < summary["rollout_actor_diff_max"] <= 1e-3


def test_training_changed_the_policy(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    from safetensors.torch import load_file

    before, after = (load_file(config.out / name / "model.safetensors") for name in ("warm_start", "policy"))
    shared = before.keys() & after.keys()
    assert len(shared) > 50
    assert any((before[name] != after[name]).any() for name in shared)
    assert AgentCard.read(str(config.out / "policy")) == config.warm_start.card


def test_every_sampled_chain_is_logged_with_exact_tokens(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in (config.out / "training" / "trajectories.jsonl").read_text().splitlines()]
    assert len(lines) == STEPS * 4 * 4
    codec, pictures = (
        ChatCodec.from_pretrained(str(config.out / "policy")),
        ImageStore(config.out / "training/pictures"),
    )
    for line in lines:
        trajectory = Trajectory.from_json(json.dumps(line["trajectory"]))
        assert trajectory.reward is not None
        trajectory.check(codec, pictures.get)


def test_the_metrics_tell_of_rewards_health_and_waiting(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    step = json.loads((config.out / "training" / "metrics.jsonl").read_text().splitlines()[-1])["data"]
    assert step["reward/mean"] == pytest.approx(step["critic/rewards/mean"], abs=1e-6)
    assert {"reward/part/edit", "reward/group/zero_variance", "health/tool_calls", "wait/policy_idle"} <= step.keys()


def test_the_report_can_be_looked_at(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    page = (config.out / "report.html").read_text()
    assert all(family in page for family in config.evaluation.families)
    assert load_image(config.out / "learning_curve.png").width > 600


def test_the_policy_is_evaluated_and_its_chains_are_repeated(
    config: QuickstartConfig, summary: dict[str, Any], tmp_path: Path
) -> None:
    backend = json.dumps({"max_model_len": 1024, "max_num_seqs": 16})
    words = ["--model", str(config.out / "policy"), "--data", "stickers", "--split", "heldout", "--limit", "5"]
    scored = ["--evaluator", "reference", "--evaluator", "structural", "--backend-config", backend]
    run_cli("eval", *words, *scored, "--concurrency", "5", "--out", str(tmp_path))
    table = json.loads((tmp_path / "summary.json").read_text())
    assert set(table["by_type"]) == set(config.evaluation.families)
    assert table["all"]["failed"] == 0
    assert {name: found["scored"] for name, found in table["all"]["scores"].items()} == {
        "reference": 5,
        "structural": 5,
    }
    assert (tmp_path / "summary.md").read_text().count("| look |") >= 1
    assert (tmp_path / "gallery.html").is_file()
    run_cli("replay", str(tmp_path), "--evaluator", "reference", "--re-execute")


def run_cli(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentfly.cli", *words], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_nothing_is_left_running(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    me = psutil.Process()
    left = [child.name() for child in me.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    assert not [name for name in left if "ray" in name or "VLLM" in name]
