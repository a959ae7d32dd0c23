"""`agentfly view` serves pages until it is stopped, and says what is wrong with its arguments."""

from __future__ import annotations

import re
import signal
import threading
from pathlib import Path

import httpx

from tests import programs
from tests.unit.viewer.made import line, run_of

LONGEST = 60.0


def address_of(program: programs.Program) -> str:
    """Return the address that the command prints when it answers."""
    pause = threading.Event()
    for _ in range(int(LONGEST / 0.05)):
        if found := re.search(r"http://\S+/", program.stdout.read_text()):
            return found[0]
        assert program.poll() is None, program.stderr.read_text()
        pause.wait(0.05)
    raise AssertionError(f"no address: {program.stdout.read_text()}")


def test_a_run_is_served_until_the_command_is_stopped(tmp_path: Path) -> None:
    run_of(tmp_path / "mine", line("a"), line("b"))
    with programs.started("-m", "agentfly.cli", "view", "mine", "--no-open", "--port", "0", cwd=tmp_path) as program:
        address = address_of(program)
        answer = httpx.get(f"{address}runs/mine/chains", timeout=LONGEST)
        assert answer.status_code == 200
        assert "2 of 2" in re.sub(r"<[^>]+>", "", answer.text)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        foreign = httpx.get(f"{address}runs/mine/chains", headers={"host": "evil.example"}, timeout=LONGEST)
        assert foreign.status_code == 421
        program.send_signal(signal.SIGINT)
        assert program.wait(LONGEST) in (0, -signal.SIGINT, 130)


def test_a_taken_port_and_a_folder_without_a_run_are_errors_of_one_line(tmp_path: Path) -> None:
    run_of(tmp_path / "below" / "mine", line("a"))
    wrong = programs.run("-m", "agentfly.cli", "view", "below", "--no-open", cwd=tmp_path)
    assert wrong.returncode == 1
    assert "is no run: name one of" in re.sub(r"\s+", " ", wrong.stderr)
    missing = programs.run("-m", "agentfly.cli", "view", "nothing", "--no-open", cwd=tmp_path)
    assert "there is no run at" in missing.stderr
    nothing = programs.run("-m", "agentfly.cli", "view", "--no-open", cwd=tmp_path)
    assert nothing.returncode == 2
    assert "--try" in nothing.stderr


def test_ratings_are_asked_for_before_they_are_written(tmp_path: Path) -> None:
    run_of(tmp_path / "mine", line("a"))
    done = programs.run("-m", "agentfly.cli", "view", "mine", "--ratings", "verdicts.jsonl", cwd=tmp_path)
    assert done.returncode == 1
    assert "open the page Rate of a run" in done.stderr
    assert not (tmp_path / "verdicts.jsonl").exists()
