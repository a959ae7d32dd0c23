"""The benchmark's comparisons: fair turns, ratios round by round, and a warning where they mean nothing."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The script as a module: it is no part of a package."""
    return load_script("benchmarks/image_server.py")


async def test_ways_take_turns_and_no_way_always_follows_the_same_other(benchmark: ModuleType) -> None:
    order: list[str] = []

    def way(name: str) -> tuple[object, int]:
        async def call(number: int) -> None:
            order.append(name)

        return call, 1

    plan = benchmark.Plan("inpaint", "", calls=1, rounds=3)
    timings = await benchmark.in_turn(plan, {name: way(name) for name in "abc"})
    assert "".join(order[6:]) == "abcbcacab"
    assert {name: len(rounds) for name, rounds in timings.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratios_are_taken_round_by_round(benchmark: ModuleType) -> None:
    def rounds(*rates: float) -> list[object]:
        return [benchmark.Timing("x", 1, rate, 0.1, 0.1) for rate in rates]

    # A machine that is ten times slower in one round is so for both.
    ratio = benchmark.compare({"a": rounds(9, 0.9, 19), "b": rounds(10, 1, 20)}, "a", "b")
    assert (ratio.median, ratio.least, ratio.most) == pytest.approx((0.9, 0.9, 0.95))


def test_a_busy_machine_is_told(benchmark: ModuleType) -> None:
    for busy in (True, False):
        out = io.StringIO()
        benchmark.show(Console(file=out, width=120), {}, [], busy=busy)
        assert ("mean nothing" in out.getvalue()) is busy


@pytest.mark.slow
def test_a_quick_run_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    command = [sys.executable, "benchmarks/image_server.py", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    assert "server to direct" in done.stdout
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert {name: len(rounds) for name, rounds in figures["timings"].items()} == dict.fromkeys(
        ("direct", "server", "server, batches", "pool of 1", "pool of 2", "cache hit, memory", "cache hit, disk"), 2
    )
    assert figures["pools"].keys() == {"server", "server, batches", "pool of 1", "pool of 2"}
    scaling = figures["ratios"][2]
    # Sleeping workers need no processor, so this one holds on a busy machine, too.
    assert scaling["median"] > 1.5
