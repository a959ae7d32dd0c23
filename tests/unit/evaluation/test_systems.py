"""The refinement loop and the director-generator beside the trained agent: one task file, a table each, compared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agentfly.datasets import StickerWorld
from agentfly.images import save_image
from tests.unit.evaluation.agents import call
from tests.unit.evaluation.test_commands import done, fields, summary
from tests.unit.evaluators.scripted_judge import Reply, judge, said
from tests.values import as_image

# Each system, with what its model says when it is asked for an edit.
SYSTEMS: dict[str, dict[str, Any]] = {
    "image-editing": {},
    "refinement-loop": {"generator": "classical", "max_iterations": 2},
    "director-generator": {"max_loops": 1},
}


def task_file(folder: Path) -> Path:
    """Three tasks that the classical editor understands, as a person writes them down."""
    world, lines = StickerWorld(96), []
    for index in range(3):
        task = world.task(index, "heldout", "named")
        names = {"image": f"{index}.png", "target": f"{index}.target.png", "mask": f"{index}.mask.png"}
        for name, image in zip(names.values(), (task.images[0], task.target, task.mask), strict=True):
            save_image(as_image(image), folder / name)
        instruction = f"Remove the {task.metadata['steps'][0]['detect']}."
        lines.append(json.dumps({"instruction": instruction, "task_type": "remove", **names}))
    file = folder / "tasks.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def everybody(request: dict[str, Any], number: int) -> Reply:
    """One model that is policy, judge, prompter, director and generator."""
    words = json.dumps(request["messages"])
    wish = re.search(r"Remove the \w+ \w+", words)
    assert wish is not None, words
    if request.get("tools"):
        answered = any(message["role"] == "tool" for message in request["messages"])
        act = call("give_answer", final_image_id="img_2")
        # Not what was asked for: the others are better.
        return Reply(act if answered else call("qwen_edit_image", image_id="img_1", prompt="grayscale"))
    if "response_format" in request:
        return said(**dict.fromkeys(fields(request), 40))
    if "Answer with one JSON object" in words:
        return said(score=90)
    return Reply("darken" if "You write prompts for a model" in words else wish[0])


@pytest.mark.slow
def test_one_task_file_gives_a_table_of_each_system_and_they_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = task_file(tmp_path)
    with judge(everybody) as server:
        for name, options in SYSTEMS.items():
            flags = ["--agent", name, "--agent-options", json.dumps(options), "--model", "m"]
            flags += ["--base-url", server.base_url, "--out", name]
            printed = done("eval", "--data", data, *flags, "--evaluator", "reference")
            assert f"# {name} on {data}" in printed
            assert "| **all** | 3 | 0 |" in printed
        assert {request["model"] for request in server.requests} == {"m"}
    found = {name: summary(tmp_path / name)["all"] for name in SYSTEMS}
    assert {name: figures["stop_reasons"] for name, figures in found.items()} == {
        name: {"answered": 3} for name in SYSTEMS
    }
    assert found["image-editing"]["tools"] == {"qwen_edit_image": 3, "give_answer": 3}
    assert found["refinement-loop"]["tools"] == {"make_image": 6}
    # Two generators, each with a prompt and no refinement; briefs and critiques are turns without a tool.
    assert found["director-generator"]["tools"] == {"make_image": 6}
    means = {name: figures["scores"]["reference"]["score"]["mean"] for name, figures in found.items()}
    assert means["refinement-loop"] == means["director-generator"] > means["image-editing"]
    for name in ("refinement-loop", "director-generator"):
        done("compare", "image-editing", name, "--out", f"{name}-compared")
        both = json.loads((tmp_path / f"{name}-compared" / "comparison.json").read_text())
        everything = both["evaluators"]["reference"]["all"]
        assert (everything["tasks"], everything["win"], everything["loss"]) == (3, 3, 0)
        assert "| **all** | 3 |" in (tmp_path / f"{name}-compared" / "comparison.md").read_text()
