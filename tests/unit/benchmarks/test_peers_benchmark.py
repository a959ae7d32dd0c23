"""The loops of the comparison do the same work, faults are drawn as told, and a peer that cannot run is a line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[3]
NOWHERE = ("/nowhere/none-1.0-py3-none-any.whl",)


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    """The script as a module: it is no part of a package."""
    return load_script("benchmarks/peers.py")


def job_of(peers: ModuleType, **fields: Any) -> Any:
    values = {"url": "", "run": "r", "chains": 4, "turns": 3, "size": 32, "model_seconds": 0.0, "tool_seconds": 0.0}
    return peers.Job(**{**values, **fields})


def test_the_bound_is_the_slowest_chain_of_the_waits_that_server_and_tools_take(peers: ModuleType) -> None:
    job = job_of(peers, model_seconds=0.5, tool_seconds=0.25, seed=3)
    waits = job.plan.waits
    assert [len(turns) for turns in waits] == [3] * 4
    assert job.plan.bound() == max(sum(model + tool for model, tool in turns) for turns in waits)
    assert waits == replace(job, run="other").plan.waits
    assert waits != replace(job, seed=4).plan.waits


def test_faults_are_drawn_once_by_kind_and_never_in_the_last_turn(peers: ModuleType) -> None:
    job = job_of(peers, chains=1000, turns=6, faults=0.02)
    kinds = Counter(job.faulty.values())
    assert set(kinds) == {"HTTP 500", "cut connection", "bad JSON", "tool raises"}
    # 100 are expected of each kind.
    assert all(60 < count < 140 for count in kinds.values())
    assert max(turn for _, turn in job.faulty) == 4
    assert job.faulty == replace(job, url="elsewhere").faulty
    assert job_of(peers, chains=1000).faulty == {}


def test_the_edit_changes_the_image_in_every_turn(peers: ModuleType) -> None:
    work = sys.modules["loop_work"]
    images = [work.photo(0, 64)]
    for turn in range(6):
        images.append(work.paint(images[-1], turn))
    assert len({image.tobytes() for image in images}) == 7
    assert all(image.size == (64, 64) for image in images)
    assert isinstance(images[0], Image.Image)


def test_a_peer_that_cannot_be_installed_or_has_no_loop_is_a_line_and_the_others_go_on(
    peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(peer: Any, python: Path, job: Any) -> tuple[Any, set[int]]:
        if peer.name == "fails":
            raise peers.Unavailable("it ended with 1")
        # A chain that meets a fault does not come to its end.
        lost = {chain for chain, _ in job.faulty}
        return peers.Figures(job.chains, job.chains - len(lost), 2.0, 0.5, 1.5, 90.0, 12, 3), {
            chain for chain in range(job.chains) if chain not in lost
        }

    monkeypatch.setattr(peers, "play", play)
    plain = peers.PEERS[0]
    broken = peers.Peer("broken", "loop_broken.py", NOWHERE)
    table = [plain, broken, peers.Peer("fails", "loop_fails.py"), next(p for p in peers.PEERS if not p.script)]
    faulty = job_of(peers, chains=200, faults=0.02)
    rows = peers.compare(table, job_of(peers), faulty, 2, tmp_path)
    assert [len(row.rounds) for row in rows] == [2, 0, 0, 0]
    assert "cannot be installed" in rows[1].reason or "uv is not installed" in rows[1].reason
    assert rows[2].reason == "it ended with 1"
    assert "GRPOTrainer" in rows[3].reason
    assert rows[0].faults.finished == 200 - len({chain for chain, _ in faulty.faulty})
    assert rows[0].lost_to == dict(Counter(faulty.faulty.values()))
    out = io.StringIO()
    peers.show(Console(file=out, width=200), rows, job_of(peers))
    assert all(name in out.getvalue() for name in ("plain loop", "broken", "fails", "TRL"))


def test_ratios_are_taken_round_by_round(peers: ModuleType) -> None:
    def row(*cpu: float) -> Any:
        rounds = [peers.Figures(1, 1, 1.0, 0.0, value, 1.0, 1, 1) for value in cpu]
        return peers.Row(peers.PEERS[0], rounds=rounds)

    # A machine that is ten times slower in one round is so for both.
    assert row(2, 22, 4).ratio("cpu_ms", row(1, 10, 2)) == 2
    assert row(2).ratio("cpu_ms", row()) is None


@pytest.mark.slow
def test_loops_finish_their_chains_and_ours_survives_every_fault(tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    command = [sys.executable, "benchmarks/peers.py", "--quick", "--peers", "plain loop,agentfly"]
    done = subprocess.run(
        [*command, "--faults", "0.1", "--json", str(file)], cwd=ROOT, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text(encoding="utf-8"))
    rows = {row["peer"]["name"]: row for row in figures["peers"]}
    assert list(rows) == ["plain loop", "agentfly", "agentfly, log_dir"]
    for row in rows.values():
        assert row["reason"] == ""
        (timed,) = row["rounds"]
        assert (timed["finished"], timed["requests"], timed["least_images"]) == (4, 4 * 3, 3)
        assert timed["seconds"] >= figures["bound"] > 0
        assert timed["cpu_ms"] > 0 < timed["peak_mib"]
    assert set(figures["faults"]["kinds"]) == {"HTTP 500", "cut connection", "bad JSON", "tool raises"}
    for name in ("agentfly", "agentfly, log_dir"):
        assert (rows[name]["faults"]["finished"], rows[name]["lost_to"]) == (16, {})
    # Retries of the SDK do not help against an argument that is no JSON, or a tool that raises.
    plain = rows["plain loop"]
    assert plain["faults"]["finished"] < 16
    assert {"bad JSON", "tool raises"} & set(plain["lost_to"])
    assert not list(file.parent.glob("peers-*"))
