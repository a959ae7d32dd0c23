"""The way that the demonstrations leave to be found is the best one, and doing nothing is worth nothing."""

from __future__ import annotations

from pathlib import Path

from tests import programs

ROOT = Path(__file__).resolve().parents[3]


def test_a_quick_run_prints_the_table() -> None:
    done = programs.run("benchmarks/ways.py", "--tasks", "1", cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    means = {name: sum(map(float, values)) / len(values) for name, *values in rows}
    assert max(means, key=means.__getitem__) == "threshold 0.6, dilation 4"
    assert means["no edit"] == 0.0
    assert len(means) == 7
