"""The benchmark runs, measures what it says, and its plan is what it claims."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def rollout() -> ModuleType:
    """The script as a module: it is no part of a package."""
    return load_script("benchmarks/rollout.py")


@pytest.mark.slow
def test_a_quick_run_prints_tables_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    command = [sys.executable, "benchmarks/rollout.py", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "beyond the plain loop" in done.stdout
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert [(t["name"], t["images"]) for t in figures["timings"]] == [
        ("plain loop", False),
        ("agentfly", False),
        ("plain loop", True),
        ("agentfly", True),
    ]
    for timing in figures["timings"]:
        assert timing["makespan"] >= timing["bound"] > 0
        assert timing["cpu_ms"] > 0
    assert [(memory["turns"], len(memory["peaks"])) for memory in figures["memory"]] == [(2, 1), (4, 2)]
    # Wide margins: this asks whether the figures are of the right kind, not how fast the machine is.
    assert figures["overhead_ms_a_turn"]["text"] < 50


def test_waits_are_drawn_once_and_the_bound_is_the_slowest_chain(rollout: ModuleType) -> None:
    plan = rollout.Plan(prompts=3, group=2, turns=4)
    assert plan.waits == rollout.Plan(prompts=3, group=2, turns=4).waits
    assert plan.waits != rollout.Plan(prompts=3, group=2, turns=4, seed=1).waits
    assert [len(turns) for turns in plan.waits] == [4] * 6
    assert [turns[-1][1] for turns in plan.waits] == [0.0] * 6
    sums = [sum(map(sum, turns)) for turns in plan.waits]
    assert plan.bound() == max(sums) > min(sums)


def test_no_two_images_are_equal(rollout: ModuleType) -> None:
    made = {rollout.make_image(chain, turn).tobytes() for chain in (-2, -1, 0, 1, 255, 256, 999) for turn in range(4)}
    assert len(made) == 28


def test_overhead_is_what_the_plain_loop_does_not_take(rollout: ModuleType) -> None:
    report = rollout.Report(
        timings=[rollout.Timing("plain loop", False, 1.0, 1.1, 0.5), rollout.Timing("agentfly", False, 1.0, 1.2, 0.75)]
    )
    assert report.overhead_ms(False) == pytest.approx(0.25)
    assert report.timings[1].over_bound == pytest.approx(0.2)
