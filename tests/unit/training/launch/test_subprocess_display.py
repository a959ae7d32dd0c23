"""A log shows the progress of a part too: at every tenth, with the elapsed time and the time that is left."""

from __future__ import annotations

import io
import itertools
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from agentfly.training.launch import subprocess_phase as room
from agentfly.training.launch.subprocess_phase import ProgressDisplay


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the clock by one that moves on a second at each look."""
    seconds = itertools.count(1000.0)
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: next(seconds)))


def lines(count: int, *, terminal: bool = False) -> list[str]:
    file = io.StringIO()
    with ProgressDisplay(Console(file=file, force_terminal=terminal, width=120)) as display:
        for done in range(count + 1):
            display.update("warm start", done, count, note="loss 0.5")
    return file.getvalue().splitlines()


def test_a_log_gets_a_line_at_every_tenth() -> None:
    """Without a terminal, nothing was printed for minutes."""
    shown = lines(750)
    assert shown[0] == "warm start: begins"
    assert len(shown) == 11
    assert re.fullmatch(r"warm start: 75 of 750, \d+ s, about \d+ s left; loss 0\.5", shown[1])
    assert re.fullmatch(r"warm start: 750 of 750, \d+ s; loss 0\.5", shown[-1])


def test_a_part_that_takes_no_time_is_told_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    assert lines(50)[1:] == ["warm start: 50 of 50, 0 s; loss 0.5"]


def test_a_terminal_gets_bars_instead() -> None:
    shown = "\n".join(lines(20, terminal=True))
    assert "20/20" in shown
    assert "begins" not in shown
