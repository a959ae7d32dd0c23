"""The benchmark of training: the loops get the same work, and times are read and compared rightly."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from agentfly.training.launch.launcher import TrainingOutcome
from agentfly.training.launch.prepare import is_row_file
from agentfly.training.recipe.compose import compose, to_override
from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def training() -> ModuleType:
    """The script as a module: it is no part of a package."""
    return load_script("benchmarks/training.py")


def outcome(*steps: float, gen: float = 2.0) -> TrainingOutcome:
    """A launch whose steps took so long."""
    metrics = [
        (number, {"timing_s/step": seconds, "timing_s/gen": gen, "num_turns/mean": 4.0})
        for number, seconds in enumerate(steps, 1)
    ]
    return TrainingOutcome(
        steps=len(steps),
        seconds=100,
        phase_seconds={"ray": 10, "workers": 20, "engine": 30, "training": 40},
        metrics=tuple(metrics),
        metrics_file=Path("m"),
        log_file=Path("l"),
        checkpoint=None,
    )


def test_the_first_step_does_not_count(training: ModuleType) -> None:
    timing = training.timing_of("agentfly", outcome(20.0, 4.0, 5.0, 9.0))
    assert (timing.step, timing.first_step, timing.cold_start) == (5.0, 20.0, 60.0)
    assert timing.parts["gen"] == 2.0
    assert timing.parts["rest"] == pytest.approx(3.0)
    assert timing.shape["turns"] == 4.0
    assert training.timing_of("agentfly", outcome(20.0)).step == 20.0


def test_loops_are_compared_round_by_round(training: ModuleType) -> None:
    took = {("agentfly", 0): 4.0, ("agentfly", 1): 8.0, ("tool_agent", 0): 5.0, ("tool_agent", 1): 10.0}
    order: list[tuple[str, int]] = []

    def run(loop: str, number: int) -> Any:
        order.append((loop, number))
        return training.timing_of(loop, outcome(50.0, took.get((loop, number), 2.0)))

    timings = training.measure(training.Plan(rounds=2), run, lambda line: None)
    assert order[0] == ("agentfly", 0)  # it tells the single turn how many tokens to sample
    assert [loop for loop, _ in order[3:]] == ["tool_agent", "single_turn", "agentfly"]
    # A machine at half its speed in the second round is so for both.
    assert training.ratio(timings, "agentfly", "tool_agent").step == pytest.approx((0.8, 0.8))


def test_the_report_has_tables_and_json(training: ModuleType) -> None:
    report, out = training.Report(training.Plan(), load_before=3.0), io.StringIO()
    report.timings = [
        training.timing_of(loop, outcome(20.0, s)) for loop, s in (("agentfly", 4.2), ("tool_agent", 4.0))
    ]
    report.imports = [training.Import("torch", 2.5, {"torch": 2.0})]
    report.alone = {"agentfly_ms": 6.0, "verl_ms": 24.0, "ratio": 0.25}
    report.show(Console(file=out, width=160))
    text = out.getvalue()
    assert "agentfly / tool_agent: 1.05 (rounds: 1.05)" in text
    assert "was busy" in text
    assert "ratio 0.25" in text
    assert "16 chains" in text
    found = json.loads(json.dumps(report.as_json()))
    assert found["ratios"][0]["median"] == pytest.approx(1.05)
    assert found["timings"][0]["cold_start"] == 60
    assert found["imports"][0]["costliest"] == {"torch": 2.0}


def test_import_times_are_read(training: ModuleType) -> None:
    told = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:    100000 |     100000 |     json.decoder\n"
        "import time:     50000 |     150000 |   json\n"
        "some warning\n"
        "import time:   1000000 |    1150000 | torch\n"
    )
    found = training.read_import_times("torch", told)
    assert found.seconds == pytest.approx(1.15)
    assert found.costliest == {"torch": 1.0, "json": 0.15}
    assert 0 < training.import_times("json").seconds < 5


def test_verls_rows_show_the_prompt_of_ours(training: ModuleType, tmp_path: Path) -> None:
    plan = training.Plan(steps=2, prompts=3)
    tasks, file = plan.tasks(), tmp_path / "data" / "verl.parquet"
    training.write_verl_rows(tasks, file)
    assert is_row_file(str(file))
    rows = pq.read_table(file).to_pylist()
    assert len(rows) == len(tasks) == 6
    assert rows[1]["prompt"][0]["content"] == f"img_1: <image>\n{tasks[1].instruction}"
    with Image.open(io.BytesIO(rows[1]["images"][0]["bytes"])) as image:
        assert image.size == (168, 168)


@pytest.mark.slow
def test_the_loops_compose_with_the_same_settings(training: ModuleType, tmp_path: Path) -> None:
    plan = training.Plan(steps=1, prompts=2)
    course = training.Course(tmp_path, tmp_path, plan)
    common = {"agentfly.model": tmp_path, "agentfly.out": tmp_path, **plan.overrides()}
    with pytest.raises(ValueError, match="did not run yet"):
        course._theirs("single_turn")
    course._sampled = 31
    found = {}
    for loop, own in (("agentfly", course._ours()), ("tool_agent", course._theirs("tool_agent"))):
        found[loop] = compose(training.RECIPE, [to_override(key, value) for key, value in {**common, **own}.items()])
    rollouts = {loop: config.actor_rollout_ref.rollout for loop, config in found.items()}
    assert rollouts["agentfly"].agent.agent_loop_manager_class is not None
    assert rollouts["tool_agent"].agent.agent_loop_manager_class is None
    assert rollouts["tool_agent"].multi_turn.max_assistant_turns == found["agentfly"].agentfly.limits.max_turns
    assert all(config.actor_rollout_ref.actor.optim.lr == 0 for config in found.values())
    course._theirs("single_turn")
    tools = json.loads((tmp_path / "tools.yaml").read_text(encoding="utf-8"))["tools"]
    assert [tool["tool_schema"]["function"]["name"] for tool in tools][-1] == "give_answer"
    assert json.loads((tmp_path / "loops.yaml").read_text(encoding="utf-8"))[0]["tokens"] == 31


def test_sampled_tokens_are_those_of_the_turns(training: ModuleType, tmp_path: Path) -> None:
    chains = [[{"start": 0, "end": 10}, {"start": 30, "end": 40}], [{"start": 0, "end": 12}]]
    file = tmp_path / "trajectories.jsonl"
    file.write_text("".join(json.dumps({"trajectory": {"turns": turns}}) + "\n" for turns in chains), encoding="utf-8")
    assert training.sampled_tokens(file) == 16


@pytest.mark.slow
def test_both_loops_make_the_same_chains_of_the_same_turns(tiny_policy: Path) -> None:
    command = [sys.executable, "benchmarks/loops_alone.py", str(tiny_policy), "--prompts", "2", "--samples", "2"]
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    # It ends badly where the chains of the loops differ in tokens or images.
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["chains"] == 4
    assert min(found["agentfly_ms"], found["verl_ms"]) > 0
