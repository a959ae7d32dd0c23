"""A viewer beside a run: it answers, ends with its starter, and never disturbs the run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from agentfly.viewer.beside import ViewerBeside
from tests.unit.viewer.made import line, run_of

_LIMIT = 120.0  # seconds


@pytest.mark.slow
def test_it_answers_and_ends_with_the_block(tmp_path: Path) -> None:
    run_of(tmp_path / "run", line("a"))
    others = psutil.Process().children()  # those of tests before this one
    with ViewerBeside(tmp_path / "run", tmp_path / "viewer.log") as viewer:
        address = viewer.start()
        assert address is not None
        # The socket is there before the process: a browser waits and is not refused.
        with urllib.request.urlopen(f"{address}runs/run/chains", timeout=_LIMIT) as answer:
            assert "Remove the star" in answer.read().decode()
        (child,) = (process for process in psutil.Process().children() if process not in others)
        assert child.nice() >= 10
    assert not child.is_running()


@pytest.mark.slow
def test_it_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    run_of(tmp_path / "run", line("a"))
    code = (
        "import sys, time; from pathlib import Path; from agentfly.viewer.beside import ViewerBeside\n"
        "viewer = ViewerBeside(Path(sys.argv[1]), Path(sys.argv[2])); print(viewer.start(), flush=True)\n"
        "time.sleep(600)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "run"), str(tmp_path / "viewer.log")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as starter:
        try:
            assert starter.stdout is not None
            assert starter.stdout.readline().startswith("http://127.0.0.1:")
            (child,) = psutil.Process(starter.pid).children()
        finally:
            starter.kill()
    deadline = time.monotonic() + _LIMIT
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_run_goes_on_without_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ViewerBeside(tmp_path, tmp_path / "none" / "viewer.log") as viewer:
        assert viewer.start() is None
    assert "there is no viewer" in caplog.text


def test_it_is_no_process_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    class Started:
        stdin = None

        def __init__(self, words: list[str], **options: object) -> None:
            seen.update(options)

    monkeypatch.setenv("AGENTFLY_RUN_ID", "run-1")
    monkeypatch.setattr(subprocess, "Popen", Started)
    ViewerBeside(tmp_path, tmp_path / "viewer.log").start()
    environment = seen["env"]
    assert isinstance(environment, dict)
    assert "AGENTFLY_RUN_ID" not in environment
    assert environment.keys() >= os.environ.keys() - {"AGENTFLY_RUN_ID"}
    assert seen["start_new_session"] is True
