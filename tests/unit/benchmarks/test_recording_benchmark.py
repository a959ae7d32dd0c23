"""The benchmark of recording measures every step of a run that kept its images, and refuses others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests import programs
from tests.viewer_runs import TrainingPlan, training_run


@pytest.mark.slow
def test_every_step_of_a_run_is_recorded_again(tmp_path: Path) -> None:
    run, file = tmp_path / "run", tmp_path / "figures.json"
    training_run(run, TrainingPlan(steps=2, groups=2, chains=2, held_out=1))
    done = programs.run("benchmarks/recording.py", str(run), "--json", str(file), timeout=120)
    assert done.returncode == 0, done.stderr
    steps = json.loads(file.read_text(encoding="utf-8"))["steps"]
    assert [(step["step"], step["chains"]) for step in steps] == [(1, 4), (2, 4)]
    assert all(step["images"] >= 2 and step["beside"] > 0 and step["held_up"] > 0 for step in steps)
    assert "median" in done.stdout

    shutil.rmtree(run / "images")
    refused = programs.run("benchmarks/recording.py", str(run), timeout=120)
    assert refused.returncode == 1
    assert "kept no images" in refused.stderr
