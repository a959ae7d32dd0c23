"""The benchmark of a GPU: what it notes of work that fails or finds no time, and its parts on small models."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import programs

if TYPE_CHECKING:
    from gpu_bench import Bench, Row

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Row]]:
    """Let the benchmark's modules be imported, and keep the rows that are told."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    told: list[Row] = []
    yield told
    sys.modules.pop("gpu_bench", None)


def bench_of(rows: list[Row], seconds: float = 60) -> Bench:
    from gpu_bench import Bench

    return Bench("cpu", tiny=True, seconds=seconds, on_row=rows.append)


@pytest.mark.slow
def test_work_that_fails_becomes_a_row_and_the_next_work_is_measured(rows: list[Row]) -> None:
    bench = bench_of(rows)
    assert bench.measure("broken", lambda: 1 // 0, calls=1) is None
    assert bench.measure("good", lambda: 7, calls=3, tokens=100) == 7
    broken, good = rows
    assert broken.failed
    assert "ZeroDivisionError" in broken.note
    assert not good.failed
    assert good.seconds is not None
    assert good.figures["tokens_per_second"] == pytest.approx(100 / good.seconds)


def test_a_model_that_cannot_be_built_is_noted_and_ends_only_itself(rows: list[Row]) -> None:
    bench = bench_of(rows)

    def build() -> None:
        raise MemoryError("no room for the weights")

    with bench.of("a model"):
        build()
    assert [(row.model, row.failed) for row in rows] == [("a model", True)]
    assert "no room for the weights" in rows[0].note


def test_no_work_begins_after_the_time_is_used_up(rows: list[Row]) -> None:
    bench = bench_of(rows, seconds=0)
    assert bench.measure("late", lambda: pytest.fail("begun"), calls=1) is None
    assert rows[0].note == "left out: the time is used up"
    assert not rows[0].failed


def test_an_unknown_part_and_a_missing_gpu_are_refused() -> None:
    unknown = programs.run("benchmarks/gpu.py", "--parts", "polcy", cwd=ROOT, timeout=240)
    assert unknown.returncode == 2
    assert "no part 'polcy': choose from policy, engines, server, rollouts, step" in unknown.stderr


@pytest.mark.slow
def test_the_parts_run_on_small_models(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    given = ("--device", "cpu", "--tiny", "--parts", "policy,engines,step", "--json", str(file))
    done = programs.run("benchmarks/gpu.py", *given, cwd=ROOT, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text(encoding="utf-8"))["rows"]
    measured = {(row["model"], row["what"]) for row in found if row["seconds"] is not None}
    assert len(measured) == 17
    apart = {row["model"]: row["figures"]["mean"] for row in found if row["what"] == "bfloat16 against float32"}
    assert set(apart) == {"Qwen2.5-VL-3B", "Qwen3.5-4B"}
    # A mean far above the rounding of bfloat16 means that the two models saw different inputs.
    assert all(0 < mean < 0.05 for mean in apart.values())
    assert next(row["note"] for row in found if row["part"] == "step").startswith("skipped: ")
