"""`agentfly view` serves pages until it is stopped, and says what is wrong with its arguments."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import httpx

from tests import programs
from tests.integration.viewer.site import viewing
from tests.unit.viewer.made import line, run_of

LONGEST = 60.0


def test_a_run_is_served_until_the_command_is_stopped(tmp_path: Path) -> None:
    run_of(tmp_path / "mine", line("a"), line("b"))
    with viewing(tmp_path / "mine") as site:
        answer = httpx.get(site("/runs/mine/chains"), timeout=LONGEST)
        assert answer.status_code == 200
        assert "2 of 2" in re.sub(r"<[^>]+>", "", answer.text)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        foreign = httpx.get(site("/runs/mine/chains"), headers={"host": "evil.example"}, timeout=LONGEST)
        assert foreign.status_code == 421
        site.program.send_signal(signal.SIGINT)
        assert site.program.wait(LONGEST) in (0, -signal.SIGINT, 130)


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
