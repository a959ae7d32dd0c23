"""The soak in its short form: real server, faults and strangers, and nothing is lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.scripts import load_script

soak = load_script("benchmarks/soak.py")


def sample(seconds: float, memory: float) -> object:
    return soak.Sample(seconds, memory, 100.0, 10, 20)


def test_growth_is_that_of_the_second_half() -> None:
    rising = [sample(10.0 * at, 100.0 if at < 4 else 100.0 + at) for at in range(8)]
    soaked = soak.Soaked(samples=rising)
    assert soaked.slope("client_mib") == pytest.approx(360.0)
    assert soaked.slope("server_files") == 0
    assert soak.Soaked(samples=rising[:4]).slope("client_mib") == 0


def test_a_server_that_is_full_is_not_broken() -> None:
    soaked = soak.Soaked()
    soaked.answers.update([200, 400, 500, 503, 504])
    assert soaked.broken == 1


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "figures.json"
    monkeypatch.setattr(soak, "FAULTS", 0.1)
    monkeypatch.setattr(sys, "argv", ["soak.py", "--minutes", "0.2", "--every", "1", "--json", str(file)])
    soak.main()
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert figures["chains"] >= 32
    assert (figures["lost"], figures["doubled"], figures["broken"], figures["left"]) == (0, 0, 0, 0)
    assert sum(figures["ends"].values()) == figures["chains"]
    assert figures["faults"] > 0
    assert sum(figures["answers"].values()) > 0
    assert "0 lost" in capsys.readouterr().out
