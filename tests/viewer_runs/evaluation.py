"""Runs outside of training: evaluations, runs of an agent with a log folder, and a quickstart with everything in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from agentfly.agents import ImageEditingAgent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.tasks import TaskFacts, task_conversation
from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.datasets import FAMILIES
from agentfly.evaluation.report.pages import write_pages
from agentfly.evaluation.report.summary import About
from agentfly.evaluation.run_folder import RunFolder
from agentfly.evaluation.task_record import TaskRecord
from agentfly.evaluators import NotScored, Score
from agentfly.evaluators.judge.settings import JudgeUsage
from agentfly.images import ImageStore
from agentfly.training.supervised.data.demonstrators import call_text
from tests.viewer_runs.chains import Policy, play, tasks_of
from tests.viewer_runs.training import USUAL, TrainingPlan, training_run

EVALUATORS = ("reference", "judge")
HALF = Policy()


def evaluation_run(
    folder: Path, count: int = 20, policy: Policy = HALF, families: Sequence[str] = FAMILIES, *, side: int = 168
) -> Path:
    """Write an evaluation of the first held-out tasks by two evaluators, and return its folder.

    Two evaluations of the same number of tasks can be compared task by task.

    Args:
        folder: of the run.
        count: tasks.
        policy: that is evaluated.
        families: types of the tasks.
        side: width and height of the images in pixels.
    """
    tasks = tasks_of(count, families, split="heldout", side=side)
    identity = {"model": f"policy-{policy.skill}", "data": "stickers", "split": "heldout", "evaluator": EVALUATORS}
    run = RunFolder(folder, {**identity, "agent": "image-editing", "seed": policy.seed})
    try:
        played = play(tasks, [task.id for task in tasks], 1, run.images, policy)
        records = []
        for task, (chain,) in zip(tasks, played, strict=True):
            chain.id = chain.group_id = task.id
            facts = TaskFacts.keep(task, run.images)
            records.append(TaskRecord(facts, chain, _scores(chain.score, chain.aspects), _usage()))
            asyncio.run(run.append(records[-1]))
        about: About = {
            "agent": "image-editing",
            "model": f"policy-{policy.skill}",
            "data": "stickers",
            "split": "heldout",
            "wall_clock_seconds": 12.5,
        }
        write_pages(folder, records, EVALUATORS, run.images, about, 0)
    finally:
        run.close()
    return folder


def _scores(value: float | None, aspects: dict[str, float]) -> dict[str, Score | NotScored]:
    if value is None:
        return {name: NotScored("the agent failed: the engine does not answer") for name in EVALUATORS}
    words = "The sticker is gone." if value > 80 else "The sticker is still there, and the photograph has changed."
    judged = Score(round(min(100.0, 0.8 * value + 10), 1), words, {"instruction": value / 100, "quality": 0.8})
    return {"reference": Score(value, "", aspects), "judge": judged}


def _usage() -> dict[str, JudgeUsage]:
    return {"judge": JudgeUsage(samples=1, requests=1, prompt_tokens=900, completion_tokens=60, seconds=1.5)}


def agent_run(folder: Path, count: int = 3, num_chains: int = 2) -> Path:
    """Write the folder of `agent.run(log_dir=…)`, whose chains have no score, and return it."""
    turns = [
        call_text("detect_objects", {"image_id": "img_1", "text_prompt": "circle"}),
        call_text("auto_inpaint_image", {"image_id": "img_1", "detect_prompt": "circle", "prompt": ""}),
        "Done.",
    ]
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(turns))

    async def run() -> None:
        try:
            asked = [task_conversation(task) for task in tasks_of(count)]
            await agent.run(asked, num_chains=num_chains, log_dir=folder)
        finally:
            await agent.close()

    asyncio.run(run())
    return folder


def quickstart_run(folder: Path, plan: TrainingPlan = USUAL) -> Path:
    """Write the folder of a quickstart: `training/`, `evaluation/warm_start` and `/trained`, `summary.json`."""
    folder.mkdir(parents=True)
    training_run(folder / "training", plan)
    (folder / "logs").mkdir()
    (folder / "quickstart.json").write_text(json.dumps({"out": str(folder), "seed": plan.seed, "algorithm": "grpo"}))
    tasks, summary = tasks_of(10, plan.families, split="heldout", side=plan.side), {}
    for label, skill in (("warm_start", 0.0), ("trained", 0.9)):
        out = folder / "evaluation" / label
        store = ImageStore(out / "images")
        for name, seed in (("greedy", 1), ("sampled", 2)):
            played = play(tasks, [task.id for task in tasks], 1, store, Policy(skill, 0.2 * (1 - skill), seed))
            lines = [TrajectoryLine.of_chain(chain).to_json() + "\n" for (chain,) in played]
            (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
            summary[f"{label}/{name}"] = sum(chain.score or 0.0 for (chain,) in played) / len(played)
    scores = {label: {"score": summary[f"{label}/greedy"]} for label in ("warm_start", "trained")}
    whole = {"algorithm": "grpo", "seed": plan.seed, "steps": plan.steps, "minutes": 4.2, **scores}
    (folder / "summary.json").write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return folder
