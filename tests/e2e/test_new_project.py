"""Train what is somebody's own, by commands alone: the tutorial, from `agentfly new` to an edit by the trained policy.

Its files and its commands are taken from the page. The tool and the reward are not those of the project's template.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorials" / "from_idea_to_trained_agent.md"
AGENT, REWARD = "my_project.agent:MyProjectAgent", "my_project.thrift:thrifty"
TOOLS = ["detect_objects", "inpaint_image", "qwen_edit_image", "my_project.erasing:auto_inpaint_image"]
NAMES = "detect_objects, inpaint_image, qwen_edit_image, give_answer, auto_inpaint_image"
# Two steps instead of ten, then a third instead of ten more.
SHORT = {"total_training_steps: 10": "total_training_steps: 2", "save_freq: 5": "save_freq: 1", "n: 4": "n: 2"}


def blocks(language: str, title: str) -> list[str]:
    """Return the blocks of a section of the page."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    found = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, f"there is no {language} in {title!r}"
    return found


class Project:
    """Types the commands of the page, as a shell with the environment activated does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def type(self, line: str, code: int = 0) -> str:
        """Run a command and return what it printed."""
        program, *words = shlex.split(line)
        if program == "cd":
            self.folder = self.folder / words[0]
            return ""
        # The package under test, and nothing of the project: a command finds that by itself.
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        command = [str(Path(sys.executable).with_name(program)), *words]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600)
        said = done.stdout + done.stderr
        assert done.returncode == code, f"{line}: exit code {done.returncode}\n{said[-4000:]}"
        return said

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return the content of a file of JSON lines."""
        return [json.loads(line) for line in (self.folder / name).read_text(encoding="utf-8").splitlines()]

    def read(self, name: str) -> Any:
        """Return the content of a file of JSON."""
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def test_from_an_idea_to_a_trained_agent(tmp_path: Path) -> None:
    project = Project(tmp_path)
    _write(project)
    _try(project)
    _train(project)
    _evaluate(project)
    _use(project)


def _write(project: Project) -> None:
    """Make the project, and write the files of the page."""
    for line in blocks("bash", "1. A project")[0].splitlines():
        said = project.type(line)
    assert "4 passed" in said
    for title in ("2. A tool", "3. A reward"):
        [code] = blocks("python", title)
        (project.folder / code.splitlines()[0].removeprefix("# ")).write_text(code, encoding="utf-8")
    [script] = blocks("yaml", "5. Try it")
    (project.folder / "own_script.yaml").write_text(script, encoding="utf-8")
    recipe = project.folder / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8")
    [named] = blocks("yaml", "4. The recipe")
    for line in named.splitlines():
        key = line.partition(":")[0]
        text, count = re.subn(rf"^{key}: .*$", line, text, flags=re.MULTILINE)
        assert count == 1, key
    for long, short in SHORT.items():
        assert text.count(long) == 1
        text = text.replace(long, short)
    recipe.write_text(text, encoding="utf-8")


def _try(project: Project) -> None:
    scripted, policy = blocks("bash", "5. Try it")[0].splitlines()
    shown = project.type(f"{scripted} --save runs/scripted")
    assert f"MyProjectAgent, tools {NAMES}" in shown
    assert "← erased red: img_2" in shown
    chains = {line["task"]["id"]: line["trajectory"] for line in project.lines("runs/scripted/trajectories.jsonl")}
    rewards = [chains[f"sticker-{number}"]["reward"] for number in range(1, 5)]
    assert min(rewards[:2]) > 0.8
    assert max(rewards[2:]) < 0.1
    assert chains["sticker-1"]["reward_parts"]["calls"] == 2.0

    project.type(policy)
    tried = [line["trajectory"] for line in project.lines("runs/trial/trajectories.jsonl")]
    assert len(tried) == 2
    assert all(chain["reward"] is not None for chain in tried)
    assert (project.folder / "runs/trial/gallery.html").is_file()


def _train(project: Project) -> None:
    (first, longer) = blocks("bash", "6. Train")
    dry_run, train = first.splitlines()
    plan = project.type(dry_run)
    assert f"agent MyProjectAgent with tools {NAMES}" in plan
    assert "auto_inpaint_image took" in plan
    assert f"the tasks have what {REWARD} asks for" in plan
    assert not (project.folder / "runs/train").exists()

    assert "step 2/2" in project.type(train)
    said = project.type(longer.strip().replace("=20", "=3"))
    assert "step 3/3" in said
    assert "step 2/3" not in said
    lines = [line for line in project.lines("runs/train/trajectories.jsonl") if not line["validate"]]
    assert [line["step"] for line in lines] == [1] * 8 + [2] * 8 + [3] * 8
    chains = [line["trajectory"] for line in lines]
    records = [record for chain in chains for turn in chain["turns"] for record in turn["tools"]]
    # It was the tool of the project that the policy called, and its reward that it learned from.
    assert any(record["name"] == "auto_inpaint_image" and record["images"] for record in records)
    for chain in chains:
        parts = chain["reward_parts"]
        assert chain["reward"] == pytest.approx(parts["done"] - 0.01 * parts["calls"])
    assert len({round(chain["reward"], 3) for chain in chains}) > 1


def _evaluate(project: Project) -> None:
    export, before, after, compare = blocks("bash", "7. Is it better?")[0].splitlines()
    project.type(export)
    card = project.read("policies/first/agentfly.json")
    assert (card["agent"], card["tools"], card["reward"]) == (AGENT, TOOLS, REWARD)
    for line, name in ((before, "before"), (after, "after")):
        project.type(line)
        summary = project.read(f"runs/{name}/summary.json")
        assert summary["all"]["failed"] == 0
        assert summary["all"]["scores"][summary["evaluators"][0]]["scored"] == 4
    assert "| **all** | 4 |" in project.type(compare)


def _use(project: Project) -> None:
    replay, edit = blocks("bash", "8. Look at it, and use it")[0].splitlines()
    executed = project.type(replay)
    assert "- differences: 0" in executed
    assert "- chains with skipped calls: 0" in executed
    assert re.search(r"- images equal: [1-9]", executed)
    assert (project.folder / "runs/after/gallery.html").is_file()
    # The code that a card names is not imported unasked.
    refused = project.type(edit.replace("--agent card ", ""), code=1)
    assert "agent=card" in " ".join(refused.split())
    assert "out.png" in project.type(edit)
    with Image.open(project.folder / "out.png") as after, Image.open(project.folder / "data/1.png") as before:
        assert after.size == before.size
        assert after.tobytes() != before.tobytes()
