"""The servers of the comparison get the same requests, and one that cannot run is a line."""

from __future__ import annotations

import io
import json
import os
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
    pytest.importorskip("ray")
    return load_script("benchmarks/image_server_peers.py")


def test_a_server_without_its_environment_is_a_line(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(peer: object, envs: Path) -> Path:
        raise benchmark.Unavailable("no network")

    monkeypatch.setattr(benchmark, "python_of", refuse)
    starts, reasons = benchmark.commands(benchmark.Plan("inpaint", "checkpoint"), tmp_path)
    assert list(starts) == ["agentfly", "FastAPI and a lock"]
    assert reasons == {"Ray Serve": "no network"}
    # Each listens at a port of its own, and has the same checkpoint.
    assert len({port for _, port, _ in starts.values()}) == 2
    assert all("checkpoint" in command for command, _, _ in starts.values())
    out = io.StringIO()
    timing = benchmark.Timing("agentfly", 1, 2.0, 0.1, 0.1, 30.0)
    benchmark.show_all(Console(file=out, width=120), {"agentfly": [timing]}, [], reasons, busy=False)
    assert "no network" in out.getvalue()
    assert "30.0" in out.getvalue()


def test_only_the_servers_that_are_named_are_started(benchmark: ModuleType, tmp_path: Path) -> None:
    starts, reasons = benchmark.commands(benchmark.Plan("inpaint", "c"), tmp_path, ("Fast",))
    assert (list(starts), reasons) == (["FastAPI and a lock"], {})


@pytest.mark.slow
def test_processor_time_is_that_of_a_process_and_all_below_it(benchmark: ModuleType) -> None:
    seconds = benchmark.processor_of(os.getpid())
    before = seconds()
    work = "import time\nwhile time.process_time() < 0.3: pass\ninput()"
    with subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, text=True) as child:
        while seconds() - before < 0.3:
            assert child.poll() is None
        child.communicate("\n")


@pytest.mark.slow
def test_a_quick_run_measures_ours_and_a_plain_application(tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    command = [sys.executable, "benchmarks/image_server_peers.py", "--quick", "--servers", "agentfly,FastAPI"]
    done = subprocess.run([*command, "--json", str(file)], cwd=ROOT, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert list(figures["timings"]) == ["agentfly", "FastAPI and a lock"]
    for (timing,) in figures["timings"].values():
        assert timing["calls"] == 8
        assert timing["per_second"] > 0 < timing["cpu_ms"]
    assert [ratio["name"] for ratio in figures["ratios"]] == ["agentfly to FastAPI and a lock"]
