"""The benchmark of asynchronous training: equal budgets, honest waits, and figures that are read rightly."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from agentfly.agents import Trajectory
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.errors import AgentFlyError
from agentfly.training.launch.launcher import TrainingOutcome
from agentfly.training.recipe.compose import compose, settings_of, to_override
from tests.scripts import load_script

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
STALE = "training/off_policy/trajectory"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The script as a module: it is no part of a package."""
    return load_script("benchmarks/async_training.py")


@pytest.fixture
def slow_tools(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import slow_tools

    return slow_tools


def logged(seconds: float, behind: float) -> dict[str, float]:
    """What verl logs of a step."""
    names = (f"{STALE}_staleness_worst/mean", f"{STALE}_staleness_worst/max", f"{STALE}_spans/mean")
    return {"timing_s/step": seconds, **dict.fromkeys(names, behind)}


def outcome(*seconds: float) -> TrainingOutcome:
    metrics = [(number, logged(took, float(number - 1))) for number, took in enumerate(seconds, 1)]
    return TrainingOutcome(
        steps=len(seconds),
        seconds=100,
        phase_seconds={"ray": 10, "workers": 20, "engine": 30, "training": 40},
        metrics=((0, {}), *metrics),
        metrics_file=Path("m"),
        log_file=Path("l"),
        checkpoint=None,
    )


def test_the_runs_of_a_table_differ_in_trainer_and_wait_alone(
    benchmark: ModuleType, slow_tools: ModuleType, tmp_path: Path
) -> None:
    budget = benchmark.Budget(steps=3, test_tasks=5)
    made = {}
    for mode in benchmark.MODES:
        values = benchmark.overrides(tmp_path, budget, mode, 5.0)
        given = [to_override(key, value) for key, value in values.items()]
        made[mode] = compose(benchmark.RECIPE, [*given, *benchmark.MODES[mode]])
    buffers = {mode: config.trainer.v1.sampler.custom_sampler.name for mode, config in made.items()}
    assert buffers == {
        "sync": "WatchfulReplayBuffer",
        "colocate_async": "WatchfulReplayBufferAsync",
        "separate_async": "WatchfulReplayBufferAsync",
    }
    for config in made.values():
        assert config.data.train_batch_size == config.actor_rollout_ref.actor.ppo_mini_batch_size == budget.prompts
        assert settings_of(config).agent == {"agent": "slow_tools:SlowEditing", "seconds": 5.0, "at_once": None}
        assert settings_of(config).data == settings_of(made["sync"]).data
    separate = made["separate_async"]
    assert separate.actor_rollout_ref.hybrid_engine is False
    assert separate.ray_kwargs.ray_init.num_gpus == 2
    assert made["colocate_async"].ray_kwargs.ray_init.num_gpus == 1
    assert [settings_of(made[mode]).seeded for mode in benchmark.MODES] == [True, False, False]


async def test_painting_waits_and_looking_does_not(slow_tools: ModuleType) -> None:
    agent = slow_tools.SlowEditing("scripted", backend=ScriptedBackend([]), seconds=0.2)
    assert agent.engines.editor.name == "classical"  # tools tell tiny policies less of it
    image = agent._store_image(Image.new("RGB", (64, 64), "red"))
    began = time.monotonic()
    await agent.detect_objects_tool(image_id=image, text_prompt="red circle")
    assert time.monotonic() - began < 0.2
    began = time.monotonic()
    await asyncio.gather(*(agent.qwen_edit_image_tool(image_id=image, prompt="brighten") for _ in range(4)))
    assert 0.2 <= time.monotonic() - began < 0.8, "calls wait side by side"


async def test_calls_of_a_small_pool_wait_for_each_other(slow_tools: ModuleType) -> None:
    wait, began = slow_tools.Wait(0.05, at_once=2), time.monotonic()
    await asyncio.gather(*(wait.over() for _ in range(6)))
    assert time.monotonic() - began >= 0.15


def test_the_first_step_does_not_count(benchmark: ModuleType) -> None:
    run = benchmark.run_of("sync", 5.0, outcome(60.0, 9.0, 11.0), [0.0, 100.0], 2**30)
    assert (run.step.mean, run.steps_an_hour, run.start) == (10.0, 360.0, 60.0)
    assert (run.behind, run.behind_most) == ([0, 1, 2], [0, 1, 2])
    assert benchmark.run_of("sync", 5.0, outcome(60.0), [], 0).step.mean == 60.0


def test_runs_are_kept_and_compared_with_the_synchronous_one(benchmark: ModuleType, tmp_path: Path) -> None:
    file, budget = tmp_path / "kept.json", benchmark.Budget(steps=3)
    results = benchmark.Results(file, budget)
    results.add(benchmark.run_of("colocate_async", 5.0, outcome(60.0, 5.0, 5.0), [50.0, 70.0], 2**31))
    results.add(benchmark.run_of("sync", 5.0, outcome(60.0, 10.0, 10.0), [60.0, 60.0], 2**30))
    again = benchmark.Results(file, budget)
    assert again.runs == results.runs
    rows = [line for line in benchmark.table(again).splitlines() if line.startswith("| 5 ")]
    assert rows[0] == "| 5 | `sync` | 10.0 (10.0 to 10.0) | 360 |  | 1.5 (2) | 1.50 | 60 (60 to 60) | 1.0 |"
    assert rows[1].startswith("| 5 | `colocate_async` | 5.0 (5.0 to 5.0) | 720 | -50 % |")
    with pytest.raises(AgentFlyError, match="has runs of the budget"):
        benchmark.Results(file, benchmark.Budget(steps=4))


def test_scores_are_those_of_the_last_validation(benchmark: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "trajectories.jsonl"

    def line(step: int, validate: bool, score: float | None) -> str:
        chain = Trajectory(f"c{step}{score}", "g", [], [], score=score)
        return TrajectoryLine.of_chain(chain, step=step, validate=validate).to_json()

    lines = [line(0, True, 10.0), line(3, False, 20.0), line(3, True, 30.0), line(3, True, None), line(3, True, 40.0)]
    file.write_text("\n".join(lines) + "\n")
    assert benchmark.held_out_scores(file, 3) == [30.0, 40.0]


def test_the_memory_of_a_run_is_that_of_all_its_processes(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "MEMORY_SECONDS", 0.05)
    (tmp_path / "run-1.log").touch()
    program = "import sys; held = bytes(range(256)) * 200_000; print('held', flush=True); sys.stdin.read()"
    environment = {**os.environ, "AGENTFLY_RUN_ID": "run-1"}
    with benchmark.peak_memory(tmp_path) as peak:
        child = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        deadline = time.monotonic() + 30
        while peak[0] < 50_000_000 and time.monotonic() < deadline:
            pass
        child.communicate()
    assert peak[0] >= 50_000_000
