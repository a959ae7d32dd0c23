"""Compare two models by the commands of docs/evaluation.md, as they stand there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentfly.datasets import FAMILIES
from tests.unit.agents.conftest import ChatServer, running_server, server
from tests.unit.evaluation.agents import blurs

__all__ = ["running_server", "server"]  # fixtures

ROOT = Path(__file__).resolve().parents[2]
TASKS = 6


def commands() -> list[str]:
    """Return the commands of the block that compares two models."""
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8").partition("## Comparing two runs")[2]
    block = re.search(r"```bash\n(.*?)```", page, re.DOTALL)
    assert block is not None
    return block[1].splitlines()


def typed(line: str, folder: Path) -> str:
    """Run a command and return its output."""
    name, *words = shlex.split(line)
    assert name == "agentfly"
    done = subprocess.run(
        [sys.executable, "-m", "agentfly.cli", *words], cwd=folder, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_two_models_compared(server: ChatServer, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "data" / "warm_start", tmp_path / "runs" / "quickstart" / "policy")
    server.say(*[blurs] * 2 * TASKS)
    ours, theirs, compare = commands()
    for line in (ours, theirs):
        small = line.replace("--limit 100", f"--limit {TASKS} --concurrency 1")
        assert small != line
        assert "| **all** | 6 | 0 |" in typed(small.replace("http://localhost:8000/v1", server.url), tmp_path)
    assert len(server.bodies) == 2 * TASKS
    printed = typed(compare, tmp_path)

    runs = {name: json.loads((tmp_path / "runs" / name / "summary.json").read_text()) for name in ("ours", "theirs")}
    found = json.loads((tmp_path / "runs" / "comparison" / "comparison.json").read_text())
    assert (tmp_path / "runs" / "comparison" / "comparison.md").read_text() in printed
    overall = found["evaluators"]["reference"]["all"]
    for side, name in (("a", "ours"), ("b", "theirs")):
        assert overall[side]["mean"] == pytest.approx(runs[name]["all"]["scores"]["reference"]["score"]["mean"])
    assert overall["win"] + overall["tie"] + overall["loss"] == overall["tasks"] == TASKS
    assert f"| **all** | {TASKS} |" in printed
    assert f"| {overall['win']} / {overall['tie']} / {overall['loss']} | 0 / 0 |" in printed
    # The chains of the policy, on vLLM in the command's process, are the same as before.
    assert set(runs["ours"]["by_type"]) == set(FAMILIES)
    assert (tmp_path / "runs" / "ours" / "gallery.html").is_file()
    typed("agentfly replay runs/ours --evaluator reference --re-execute", tmp_path)
    # A blur of the whole image is an edit in the wrong place; the policy gets some right.
    assert runs["theirs"]["all"]["scores"]["reference"]["score"]["mean"] < overall["a"]["mean"]
