"""Curves of growth: the exponent is that of the upper half, and the command runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.scripts import load_script

growth = load_script("benchmarks/growth.py")


@pytest.mark.parametrize("power", [-1.0, 1.0, 2.0])
def test_the_exponent_is_that_of_the_upper_half(power: float) -> None:
    sizes = growth.powers(0, 7)
    costs = [5.0] * 3 + [size**power for size in sizes[3:]]
    assert growth.Curve("x", "s", sizes, costs).exponent == pytest.approx(power)


@pytest.mark.slow
def test_twice_the_servers_take_half_the_time() -> None:
    one, two = (growth.of_servers(number, 24) for number in (1, 2))
    assert 1.6 < one / two < 2.2


@pytest.mark.slow
def test_the_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "figures.json"
    monkeypatch.setattr(sys, "argv", ["growth.py", "--quick", "--json", str(file)])
    growth.main()
    assert "exponent" in capsys.readouterr().out
    curves = {curve["name"]: curve for curve in json.loads(file.read_text(encoding="utf-8"))}
    assert list(curves) == ["chains", "turns", "pixels", "servers"]
    assert all(len(curve["sizes"]) == len(curve["costs"]) for curve in curves.values())
    assert curves["chains"]["costs"][-1] > curves["chains"]["costs"][0]
