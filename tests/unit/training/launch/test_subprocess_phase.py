"""Phases report progress, name the log when they fail, and leave no process behind."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from agentfly.errors import TrainingError
from agentfly.training.launch.subprocess_phase import PhaseProcess, run_phase

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[4]
OnProgress = Callable[[str, int, int], None]


def counts(total: int, on_progress: OnProgress) -> None:
    sys.stdout.write("noise\n")
    for done in range(total):
        on_progress("counting", done + 1, total)


def fails(on_progress: OnProgress) -> None:
    raise ValueError("no such thing")


def dies(on_progress: OnProgress) -> None:
    os._exit(9)


def hangs_with_a_child(pid_file: str, on_progress: OnProgress) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    Path(pid_file).write_text(str(child.pid))
    child.wait()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PhaseProcess]:
    """Start a process and import this module in it, which takes seconds on a busy machine; the last test ends it."""
    with PhaseProcess() as made:
        made.run(counts, {"total": 1}, log=tmp_path_factory.mktemp("phase") / "import.log")
        yield made


def test_progress_comes_back_and_noise_goes_to_the_log(tmp_path: Path) -> None:
    events: list[tuple[str, int, int]] = []
    run_phase(
        counts, {"total": 3}, log=tmp_path / "a.log", patience=60, on_progress=lambda *event: events.append(event)
    )
    assert events == [("counting", 1, 3), ("counting", 2, 3), ("counting", 3, 3)]
    assert "noise" in (tmp_path / "a.log").read_text()


def test_a_fault_names_its_cause_and_the_log_and_leaves_the_process_usable(
    process: PhaseProcess, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"no such thing; see .*b\.log"):
        process.run(fails, {}, log=tmp_path / "b.log", patience=60)
    process.run(counts, {"total": 1}, log=tmp_path / "after.log", patience=60)


def test_a_process_that_dies_names_the_log(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"died without a message.*g\.log"):
        run_phase(dies, {}, log=tmp_path / "g.log", patience=60)


def creeps(seconds: float, on_progress: OnProgress) -> None:
    for done in range(4):
        threading.Event().wait(seconds / 4)
        on_progress("creeping", done + 1, 4)


def test_a_phase_that_gets_on_may_take_longer_than_its_patience(process: PhaseProcess, tmp_path: Path) -> None:
    """A limit for the whole phase killed the warm start of a slow machine at step 330 of 750."""
    assert process.run(creeps, {"seconds": 6.0}, log=tmp_path / "d.log", patience=4) > 5


def reports_its_pid(on_progress: OnProgress) -> None:
    on_progress("pid", os.getpid(), 1)


def test_functions_of_one_process_share_it_and_have_logs_of_their_own(process: PhaseProcess, tmp_path: Path) -> None:
    pids: list[int] = []
    for name in ("one", "two"):
        process.run(reports_its_pid, {}, log=tmp_path / name, on_progress=lambda _, pid, __: pids.append(pid))
    process.run(counts, {"total": 1}, log=tmp_path / "three")
    assert pids[0] == pids[1] != os.getpid()
    assert ["noise" in (tmp_path / name).read_text() for name in ("one", "two", "three")] == [False, False, True]


def has_ended(pid: int) -> bool:
    """Return True if a process that was killed is gone; the kernel takes a moment to end it."""
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            process.wait(timeout=10)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def test_a_hanging_phase_is_ended_with_its_children(process: PhaseProcess, tmp_path: Path) -> None:
    pid_file, pids = tmp_path / "pid", list[int]()
    process.run(reports_its_pid, {}, log=tmp_path / "own", on_progress=lambda _, pid, __: pids.append(pid))
    with pytest.raises(TrainingError, match=r"made no progress for 5 s .*c\.log"):
        process.run(hangs_with_a_child, {"pid_file": str(pid_file)}, log=tmp_path / "c.log", patience=5)
    assert "in hangs_with_a_child" in (tmp_path / "c.log").read_text()
    assert all(has_ended(pid) for pid in (*pids, int(pid_file.read_text())))


kept: list[object] = []


def leaves_a_semaphore(on_progress: OnProgress) -> None:
    kept.append(multiprocessing.get_context("spawn").Lock())


def test_a_process_that_is_done_ends_by_itself(tmp_path: Path) -> None:
    """A killed process left semaphores, about which Python warned the user at the end of the run."""
    code = (
        "from pathlib import Path; from agentfly.training.launch.subprocess_phase import run_phase\n"
        "from tests.unit.training.launch.test_subprocess_phase import leaves_a_semaphore\n"
        f"run_phase(leaves_a_semaphore, {{}}, log=Path({str(tmp_path / 'f.log')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_thread_that_waits_is_told_when_the_process_is_ended(tmp_path: Path) -> None:
    """Ctrl-C during the training ends the evaluation that runs beside it."""
    with ThreadPoolExecutor(1) as pool:
        process = PhaseProcess()
        waiting = pool.submit(process.run, creeps, {"seconds": 40.0}, log=tmp_path / "e.log")
        process.close()
        with pytest.raises(TrainingError, match="died without a message"):
            waiting.result(timeout=30)
