"""The simulated cluster: nothing is lost in it, and its time is virtual."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentfly.vision.remote.node import Node
from tests.scripts import load_script

cluster = load_script("benchmarks/cluster.py")
virtual_time = sys.modules["virtual_time"]


def simulated(**changes: Any) -> Any:
    small = {"chains": 48, "servers": 6, "turns": 3, "crash_hours": 0.0, "errors": 0.0, "stragglers": 0.0}
    return virtual_time.run(partial(cluster.simulate, cluster.Setup(**{**small, **changes})))


@pytest.mark.slow
def test_nothing_is_lost_or_done_twice_while_servers_fail_and_crash() -> None:
    outcome = simulated(errors=0.1, stragglers=0.1, crash_hours=0.02)
    assert (outcome.answered, outcome.lost, outcome.unanswered, outcome.doubled) == (48, 0, 0, 0)
    assert outcome.retries > 0
    assert outcome.wasted > 0


@pytest.mark.slow
def test_servers_are_kept_busy() -> None:
    outcome = simulated()
    assert outcome.busy > 0.8
    assert 0 <= outcome.over_bound < 0.25


@pytest.mark.slow
def test_a_server_that_tells_what_it_takes_keeps_nothing_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [simulated(stragglers=0.1, seed=seed) for seed in range(3)]
    monkeypatch.setattr(Node, "record_slots", lambda *_: None)
    untold = [simulated(stragglers=0.1, seed=seed) for seed in range(3)]
    assert sum(one.makespan for one in told) < sum(one.makespan for one in untold)
    assert sum(one.busy for one in told) > sum(one.busy for one in untold)


@pytest.mark.slow
def test_a_run_is_the_same_again() -> None:
    first, second = simulated(errors=0.1), simulated(errors=0.1)
    assert (first.makespan, first.retries) == (second.makespan, second.retries)


def test_hours_pass_in_no_time() -> None:
    async def wait(loop: Any) -> float:
        await asyncio.sleep(7200)
        assert time.monotonic() == loop.time()
        return await asyncio.to_thread(time.monotonic)

    before = time.monotonic()
    assert virtual_time.run(wait) == pytest.approx(7200)
    assert time.monotonic() - before < 3600


def test_what_waits_for_ever_is_said() -> None:
    async def wait(loop: Any) -> None:
        await loop.create_future()

    with pytest.raises(RuntimeError, match="never comes"):
        virtual_time.run(wait)


def test_the_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "figures.json"
    command = ["cluster.py", "--chains", "8", "--servers", "2", "--turns", "2", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", command)
    cluster.main()
    assert "over_bound" in capsys.readouterr().out
    assert json.loads(file.read_text(encoding="utf-8"))["answered"] == 8
