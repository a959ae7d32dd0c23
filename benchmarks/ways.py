"""The room for learning in the sticker world: the mean score of one way to do every task, right words given.

    python benchmarks/ways.py [--tasks 120]

Tasks are held out and the same for every way. A script calls the tools through the real rollout, and the reference
evaluator scores the result; no model is asked.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from agentfly.agents import EvaluationSetup, ImageEditingAgent
from agentfly.agents.llm_backends import GenerationRequest, ScriptedBackend
from agentfly.datasets import FAMILIES, EditTask, StickerWorld
from agentfly.evaluation.in_memory import evaluate_agent
from agentfly.evaluators import ReferenceEvaluator
from agentfly.training.supervised.data.demonstrations import call_text

AUTO, EDIT = "auto_inpaint_image", "qwen_edit_image"
WAYS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "threshold 0.6, dilation 4": (AUTO, {"box_threshold": 0.6, "auto_mask_dilate": 4}),
    "dilation 0": (AUTO, {"box_threshold": 0.6, "auto_mask_dilate": 0}),
    "dilation 8": (AUTO, {"box_threshold": 0.6, "auto_mask_dilate": 8}),
    "dilation 16": (AUTO, {"box_threshold": 0.6, "auto_mask_dilate": 16}),
    "threshold 0.2": (AUTO, {"box_threshold": 0.2, "auto_mask_dilate": 4}),
    "qwen_edit_image": (EDIT, {}),
    "no edit": ("", {}),
}


class Script:
    """Does the steps of a task one after the other, each with one call of the same tool."""

    def __init__(self, task: EditTask, tool: str, parameters: Mapping[str, Any]) -> None:
        self._steps = list(task.metadata["steps"]) if tool else []
        self._tool, self._parameters = tool, parameters

    def __call__(self, request: GenerationRequest) -> str:
        """The next turn."""
        last = request.messages[-1]
        current = last.text.split(":")[0].split()[0] if last.role == "tool" else "img_1"
        if not current.startswith("img_") or not self._steps:
            return call_text("give_answer", {"final_image_id": current if current.startswith("img_") else "img_1"})
        step = self._steps.pop(0)
        words, new = step["detect"], step["new"]
        if self._tool == EDIT:
            return call_text(
                EDIT, {"image_id": current, "prompt": f"replace {words} by {new}" if new else f"remove {words}"}
            )
        return call_text(AUTO, {"image_id": current, "detect_prompt": words, "prompt": new, **self._parameters})


async def scores(tasks: list[EditTask], tool: str, parameters: Mapping[str, Any]) -> dict[str, float]:
    """Mean score of a way by family."""
    scripts = {f"{task.id}-0": Script(task, tool, parameters) for task in tasks}
    backend = ScriptedBackend(lambda request: scripts[request.session_id](request))
    found = await evaluate_agent(
        ImageEditingAgent("ways", backend=backend), tasks, EvaluationSetup(ReferenceEvaluator())
    )
    return {family: float(found.scores(family).mean()) for family in FAMILIES}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=120, help="of each family")
    given = parser.parse_args()
    world = StickerWorld()
    tasks = [world.task(index, "heldout", family) for index in range(given.tasks) for family in FAMILIES]
    table = Table("way", *FAMILIES)
    for name, (tool, parameters) in WAYS.items():
        found = asyncio.run(scores(tasks, tool, parameters))
        table.add_row(name, *(f"{found[family]:.1f}" for family in FAMILIES))
    Console(width=max(100, Console().width)).print(table)


if __name__ == "__main__":
    main()
