"""The main job, small: warm start, two real verl steps with weight sync, checkpoint, resume, evaluation, report."""

from __future__ import annotations

import json
from typing import Any

import psutil
import pytest

from agentfly.agents import Trajectory
from agentfly.agents.card import AgentCard
from agentfly.images import load_image
from agentfly.templates import ChatCodec
from agentfly.training.launch import launch
from agentfly.training.policy_evaluation import EvaluationPlan
from agentfly.training.ppo_config import PPOConfig
from agentfly.training.quickstart import QuickstartConfig, Reinforcement, run_quickstart
from agentfly.training.rows import read_task
from agentfly.training.sft import SFTConfig
from agentfly.training.warm_start import WarmStartConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STEPS = 2


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> QuickstartConfig:
    return QuickstartConfig(
        out=tmp_path_factory.mktemp("quickstart") / "run",
        warm_start=WarmStartConfig(demonstrations=60, looks=20, sft=SFTConfig(steps=80, batch_size=16)),
        reinforcement=Reinforcement(steps=STEPS, prompts=4, samples=4, tasks=8),
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
    lines = [json.loads(line) for line in (config.out / "trajectories.jsonl").read_text().splitlines()]
    assert len(lines) == STEPS * 4 * 4
    codec = ChatCodec.from_pretrained(str(config.out / "policy"))
    task = read_task({"index": 0, "task_file": str(config.out / "data" / "train.tasks.parquet")})
    picture = load_image(task.images[0])
    for line in lines:
        trajectory = Trajectory.from_json(json.dumps(line["trajectory"]))
        assert trajectory.reward is not None
        # All pictures of the world have one size, so one stands for all here.
        trajectory.check(codec, lambda handle: picture)


def test_the_report_can_be_looked_at(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    page = (config.out / "report.html").read_text()
    assert all(family in page for family in config.evaluation.families)
    assert load_image(config.out / "learning_curve.png").width > 600


def training(config: QuickstartConfig, **settings: Any) -> PPOConfig:
    """A further launch on the data of the run."""
    return PPOConfig(
        model_path=config.out / "warm_start",
        train_files=(config.out / "data" / "train.parquet",),
        val_files=(config.out / "data" / "validation.parquet",),
        agent_loop_config=config.out / "data" / "agent_loop.yaml",
        train_batch_size=4,
        group_size=4,
        learning_rate=1e-4,
        max_prompt_length=64,
        max_response_length=192,
        micro_batch_tokens=4096,
        max_images=6,
        **settings,
    )


def test_a_run_resumes_where_it_stopped(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    last = STEPS + 1
    outcome = launch(training(config, output_dir=config.out / "training", steps=last, save_freq=last, resume=True))
    assert [step for step, _ in outcome.metrics] == [last]
    assert outcome.checkpoint is not None
    assert outcome.checkpoint.name == f"global_step_{last}"


def test_ppo_trains_a_critic(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    outcome = launch(training(config, output_dir=config.out / "ppo", steps=1, algorithm="ppo"))
    metrics = outcome.metrics[-1][1]
    assert metrics["critic/vf_loss"] > 0.0
    assert metrics["critic/grad_norm"] > 0.0


def test_nothing_is_left_running(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    me = psutil.Process()
    left = [child.name() for child in me.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    assert not [name for name in left if "ray" in name or "VLLM" in name]
