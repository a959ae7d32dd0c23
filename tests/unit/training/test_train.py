"""`agentfly train`: a step in one line, and a dry run that finds all faults and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentfly.errors import TrainingError
from agentfly.training.recipe.settings import DataSettings, TrainSettings
from agentfly.training.train import measured_seconds, run_checks, step_line

METRICS = {
    "timing_s/step": 12.34,
    "timing_s/gen": 7.0,
    "timing_s/update_actor": 4.0,
    "timing_s/something_else": 1.0,
    "reward/mean": 0.512,
    "reward/part/edit": 0.61,
}


def test_a_step_in_one_line() -> None:
    assert step_line(3, 32, METRICS) == "step 3/32  reward 0.512  edit 0.610  12.3 s = rollout 7.0 + update 4.0"


def test_the_cause_of_waiting_is_named() -> None:
    waits = {"wait/policy_idle": 0.41, "wait/because/qwen_edit_image": 0.41}
    assert step_line(3, 32, {**METRICS, **waits}).endswith("policy idle 41% because of qwen_edit_image")


def test_lost_chains_are_listed_by_reason() -> None:
    losses = {
        "chains/lost": 3.0,
        "chains/lost/not_scored": 2.0,
        "chains/lost/tools": 1.0,
        "chains/stop/wall_clock": 4.0,
    }
    assert step_line(3, 32, {**METRICS, **losses}).endswith("lost or cut: not_scored 2, tools 1, wall_clock 4")


def test_old_weights_are_told_where_there_are_any() -> None:
    name = "training/off_policy/trajectory_staleness_worst"
    assert "behind" not in step_line(3, 32, {**METRICS, f"{name}/mean": 0.0, f"{name}/max": 0.0})
    line = step_line(3, 32, {**METRICS, f"{name}/mean": 1.25, f"{name}/max": 3.0})
    assert line.endswith("weights 1.2 behind (most 3)")


def test_verls_own_reward_stands_in_for_ours() -> None:
    assert "reward 0.250" in step_line(1, 2, {"timing_s/step": 1.0, "critic/rewards/mean": 0.25})


def test_a_validation_before_the_first_step() -> None:
    metrics = {"val-core/named/reward/mean@1": 0.25, "val-aux/named/tool_calls/mean@1": 2.0}
    assert step_line(0, 32, metrics) == "validation before step 1: named/reward/mean@1 0.250"


@pytest.mark.slow
def test_checks_that_die_are_reported_with_their_last_lines(tmp_path: Path) -> None:
    environment = {**os.environ, "VERL_PLATFORM": ""}
    with pytest.raises(TrainingError, match=r"the checks ended with exit code 1: .*No such file.*nowhere\.yaml"):
        run_checks(tmp_path / "nowhere.yaml", environment, "check")


RECIPE = """
defaults:
  - agentfly
  - _self_
  - device: cpu

agentfly:
  data:
    train: stickers
    limit: 4

data:
  train_batch_size: 2
  max_prompt_length: 64
  max_response_length: 192

actor_rollout_ref:
  rollout:
    n: 2
"""


def dry_run(
    tmp_path: Path, policy: Path, *overrides: str, dry: bool = True, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE)
    given = [f"agentfly.model={policy}", f"agentfly.out={tmp_path / 'run'}", *overrides]
    command = [sys.executable, "-m", "agentfly.cli", "train", str(recipe), *given, *(["--dry-run"] if dry else [])]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, tiny_policy: Path) -> None:
    pytest.importorskip("verl")
    done = dry_run(tmp_path, tiny_policy, "agentfly.system_prompt=''", "trainer.total_training_steps=7")
    assert done.returncode == 0, done.stderr
    assert "grpo, 7 steps" in done.stdout
    assert "2 prompts x 2 = 4 chains" in done.stdout
    assert "together at most 128 tool calls and 1,024 tokens" in done.stdout
    assert "family      Qwen2.5-VL (qwen2_5_vl), level trained" in done.stdout
    assert "seconds     not measured: the run has taken no step yet" in done.stdout
    assert "1 x cpu, sync trainer" in done.stdout
    assert "verl accepts the configuration" in done.stdout
    assert "of 64 tokens at most" in done.stdout
    assert not (tmp_path / "run").exists()


def test_a_dry_run_has_the_seconds_that_the_run_has_measured(tmp_path: Path) -> None:
    steps = [{"timing_s/step": 10.0 + step, "timing_s/gen": 6.0} for step in range(12)]
    lines = [json.dumps({"step": number, "data": data}) for number, data in enumerate([{"val": 1.0}, *steps])]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    settings = TrainSettings(model="m", out=tmp_path, data=DataSettings(train="stickers"))
    words = f"16.5 s = rollout 6.0 (mean of the last 10 steps in {tmp_path / 'metrics.jsonl'})"
    assert measured_seconds(settings) == words


@pytest.mark.slow
def test_a_dry_run_finds_a_prompt_that_does_not_fit(tmp_path: Path, tiny_policy: Path) -> None:
    pytest.importorskip("verl")
    # The policy has no card, so it gets the agent's own system prompt, which is long.
    done = dry_run(tmp_path, tiny_policy)
    assert done.returncode == 1
    message = " ".join(done.stderr.split())
    assert "error: the prompt of task 'train-named-0-0' has" in message
    assert "data.max_prompt_length is 64: raise it" in message
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("dry", [True, False])
def test_missing_things_are_listed_together_before_anything_starts(
    dry: bool, tmp_path: Path, tiny_policy: Path
) -> None:
    pytest.importorskip("verl")
    judge = "{evaluator: judge, model: m, base_url: 'http://127.0.0.1:9/v1'}"
    options = ["device=cuda", f"agentfly.evaluator={judge}", "actor_rollout_ref.rollout.max_model_len=9000"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    # GPUs are hidden, so that a machine with some behaves like one without.
    done = dry_run(tmp_path, tiny_policy, *options, dry=dry, environment={**environment, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1
    title, *problems = [line for line in done.stderr.splitlines() if line.startswith(("- ", "error: "))]
    assert re.fullmatch(r"error: \d problems:", title)
    for words in (
        "this machine has no GPU that CUDA_VISIBLE_DEVICES='' shows: train a small policy on the CPU with device=cpu",
        "agentfly.evaluator: the judge m at http://127.0.0.1:9/v1 did not answer",
        "a chain may have 9000 tokens, and the model has positions for 4096",
    ):
        assert sum(line.startswith(f"- {words}") for line in problems) == 1, words
    assert not (tmp_path / "run").exists()
