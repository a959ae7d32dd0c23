"""Lines of repeated steps leave the logs, and a torn note of the newest checkpoint is repaired."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agentfly.agents import Trajectory
from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.training.launch.checkpoints import TRACKER
from agentfly.training.launch.resume import cut_back, resume_checkpoint


def chain(step: int, validate: bool = False) -> str:
    return TrajectoryLine.of_chain(Trajectory(f"{step}", "task", []), step=step, validate=validate).to_json() + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "trajectories.jsonl"


@pytest.fixture
def aside(tmp_path: Path) -> Path:
    return tmp_path / "aside.jsonl"


def test_lines_of_later_steps_move(log: Path, aside: Path) -> None:
    # Chains of an asynchronous run are not in the order of their steps.
    log.write_text(chain(1) + chain(3) + chain(2) + chain(10) + chain(2, validate=True))
    assert cut_back(log, 2, aside) == 2
    assert log.read_text() == chain(1) + chain(2) + chain(2, validate=True)
    assert aside.read_text() == chain(3) + chain(10)
    assert sorted(path.name for path in log.parent.iterdir()) == ["aside.jsonl", "trajectories.jsonl"]


def test_lines_of_version_0_1_move(log: Path, aside: Path) -> None:
    lines = [json.dumps({"step": step, "validate": True, "trajectory": {}}) + "\n" for step in (1, 2)]
    log.write_text("".join(lines))
    assert cut_back(log, 1, aside) == 1
    assert log.read_text() == lines[0]
    assert cut_back(log, 1, aside, revalidates=True) == 1


def test_metrics_are_read_too(log: Path, aside: Path) -> None:
    lines = [json.dumps({"step": step, "data": {"reward": 0.5}}) + "\n" for step in (1, 2)]
    log.write_text("".join(lines))
    assert cut_back(log, 1, aside) == 1
    assert log.read_text() == lines[0]


def test_a_validation_that_is_repeated_moves(log: Path, aside: Path) -> None:
    log.write_text(chain(2) + chain(2, validate=True))
    assert cut_back(log, 2, aside, revalidates=True) == 1
    assert log.read_text() == chain(2)


def test_a_line_that_was_cut_short_moves(log: Path, aside: Path) -> None:
    log.write_text(chain(1) + chain(1)[:20])
    assert cut_back(log, 5, aside) == 1
    assert log.read_text() == chain(1)


def test_what_needs_no_cut_is_not_written_anew(log: Path, aside: Path) -> None:
    log.write_text(chain(1) + "not ours\n" + chain(-1))
    before = log.stat().st_ino
    assert cut_back(log, 1, aside) == 0
    assert log.stat().st_ino == before
    assert not aside.exists()
    assert cut_back(log.with_name("none.jsonl"), 0, aside) == 0


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """Write checkpoints of steps 9 (of an earlier run) and 2, both complete, and an unfinished one of step 3."""
    for number, step in enumerate((9, 2)):
        (tmp_path / f"global_step_{step}").mkdir()
        data = tmp_path / f"global_step_{step}" / "data.pt"
        data.touch()
        os.utime(data, (1000 + number, 1000 + number))
    (tmp_path / "global_step_3" / "actor").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(("note", "expected"), [("9", 9), ("", 2), ("3\0\0", 2)])
def test_an_empty_note_of_the_newest_checkpoint_is_repaired(checkpoints: Path, note: str, expected: int) -> None:
    (checkpoints / TRACKER).write_text(note)
    assert resume_checkpoint(checkpoints) == checkpoints / f"global_step_{expected}"
    assert (checkpoints / TRACKER).read_text() == str(expected)


def test_without_a_whole_checkpoint_a_run_starts_anew(tmp_path: Path) -> None:
    (tmp_path / TRACKER).write_text("")
    assert resume_checkpoint(tmp_path) is None
    # verl does not start with an empty one.
    assert not (tmp_path / TRACKER).exists()


def test_a_named_checkpoint_wins(checkpoints: Path) -> None:
    (checkpoints / TRACKER).write_text("9")
    named = checkpoints / "global_step_2"
    assert resume_checkpoint(checkpoints, named) == named
