"""The benchmark of the evaluators runs and writes what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import programs

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_a_quick_run_prints_tables_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    done = programs.run("benchmarks/evaluators.py", "--quick", "--json", str(file), cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "of the bound" in done.stdout
    figures = json.loads(file.read_text(encoding="utf-8"))
    measured = {(one["evaluator"], one["side"], one["edit"]) for one in figures["timings"]}
    assert len(measured) == 12
    assert all(0 < one["least_ms"] <= one["median_ms"] for one in figures["timings"])
    # No client is faster than its server; more would mean that the bound is not one.
    assert all(0 < one["ratio"] <= 1.01 for one in figures["judge"])
