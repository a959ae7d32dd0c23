"""`agentfly try` on a real engine: the policy that comes with the repository does tasks, and every token is checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentfly.agents import Trajectory
from agentfly.evaluation.replay import read_recording
from agentfly.templates import ChatCodec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RECIPE = """
defaults:
  - stickers
  - _self_
agentfly:
  model: {model}
  out: {folder}/run
  data: {{train: stickers, split: heldout}}
"""


def test_the_recipes_policy_is_tried_as_training_would_run_it(tmp_path: Path, warm_policy: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.format(model=warm_policy, folder=tmp_path))
    words = [str(tmp_path / "r.yaml"), "--tasks", "3", "--samples", "2", "--save", str(tmp_path / "out")]
    command = [sys.executable, "-m", "agentfly.cli", "try", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stdout + done.stderr
    trial = json.loads((tmp_path / "out" / "trial.json").read_text())
    assert trial["metrics"]["chains/lost"] == 0.0
    assert trial["metrics"]["reward/max"] > 0.3
    # The start of the engine is no time of the policy.
    recording = read_recording(tmp_path / "out")
    assert len(recording.chains) == 6
    assert max(turn.seconds for chain in recording.chains for turn in chain.trajectory.turns) < trial["seconds"] + 1
    codec, images = ChatCodec.from_pretrained(str(warm_policy)), recording.store()
    for chain in recording.chains:
        trajectory: Trajectory = chain.trajectory
        trajectory.check(codec, images.get)
        assert trajectory.tokens is not None
        assert any(value < 0.0 for value in trajectory.tokens.logprobs)
    assert not (tmp_path / "run").exists()
