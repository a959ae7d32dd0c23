"""Phases: progress comes back, faults are told with the log's path, nothing outlives them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from agentfly.errors import TrainingError
from agentfly.training.phase import run_phase

Tell = Callable[[str, int, int], None]


def counts(total: int, on_progress: Tell) -> None:
    sys.stdout.write("noise\n")
    for done in range(total):
        on_progress("counting", done + 1, total)


def fails(on_progress: Tell) -> None:
    raise ValueError("no such thing")


def dies(on_progress: Tell) -> None:
    os._exit(9)


def hangs_with_a_child(pid_file: str, on_progress: Tell) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    Path(pid_file).write_text(str(child.pid))
    child.wait()


def test_progress_comes_back_and_noise_goes_to_the_log(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    run_phase(counts, {"total": 3}, log=tmp_path / "a.log", timeout=60, on_progress=lambda *event: told.append(event))
    assert told == [("counting", 1, 3), ("counting", 2, 3), ("counting", 3, 3)]
    assert "noise" in (tmp_path / "a.log").read_text()


@pytest.mark.parametrize(("function", "message"), [(fails, "no such thing"), (dies, "died without a word")])
def test_faults_name_their_cause_and_the_log(function: Callable[..., None], message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        run_phase(function, {}, log=tmp_path / "b.log", timeout=60)
    assert "b.log" in str(caught.value)


def test_a_hanging_phase_is_ended_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(TrainingError, match=r"hangs_with_a_child did not finish within 5 s .*c\.log"):
        run_phase(hangs_with_a_child, {"pid_file": str(pid_file)}, log=tmp_path / "c.log", timeout=5)
    assert "in hangs_with_a_child" in (tmp_path / "c.log").read_text()
    pid = int(pid_file.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
