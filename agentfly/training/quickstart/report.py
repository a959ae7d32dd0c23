"""Write the report and the images at the end of a quickstart run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from agentfly.agents import Trajectory
from agentfly.agents.display.strip import Step, write_steps
from agentfly.datasets import EditTask
from agentfly.evaluators.bootstrap import SUCCESS, Estimate
from agentfly.images import ImageStore, load_image
from agentfly.training.quickstart.evaluation import EvaluationPlan, read_evaluation
from agentfly.viewer import Example, Report, StepRecord, learning_curve, write_report

_RIGHT = 95.0  # a score that only the edit that was asked for gets
_SHOWN = 2  # successes, and failures, of each family


def write_run_report(
    out: Path, summary: Mapping[str, Any], records: Sequence[StepRecord], plan: EvaluationPlan
) -> None:
    """Write `learning_curve.png`, `edit.png` and `report.html` into a run's folder."""
    title = f"{summary['algorithm']} on stickers, seed {summary['seed']}"
    curve = learning_curve(
        records,
        out / "learning_curve.png",
        title=title,
        warm_start=_score(summary["warm_start"]),
        trained=_score(summary["trained"]),
    )
    examples = _examples(out, plan)
    write_report(out / "report.html", Report(f"agentfly: {title}", summary, curve, examples))
    done = [example for example in examples if (example.runs[0][1].score or 0.0) >= SUCCESS]
    if done:
        _strip(max(done, key=_telling), out / "edit.png")


def _score(both: Mapping[str, Any]) -> Estimate:
    return Estimate(**both["greedy"]["score"])


def _telling(example: Example) -> tuple[bool, float]:
    """What makes an example worth showing: both made an image, the trained policy's is right, and how much better."""
    (_, trained, _), (_, before, made) = example.runs
    after = trained.score or 0.0
    return made is not None and after >= _RIGHT, after - (before.score or 0.0)


def _examples(out: Path, plan: EvaluationPlan) -> list[Example]:
    """Successes and failures of the trained policy by family, each beside what the warm start did with the task."""
    trained = read_evaluation(out / "evaluation" / "trained" / "greedy.jsonl")
    before = read_evaluation(out / "evaluation" / "warm_start" / "greedy.jsonl")
    stores = {
        label: ImageStore(out / "evaluation" / folder / "images")
        for label, folder in (("trained", "trained"), ("warm start", "warm_start"))
    }
    kept = plan.kept_per_family * len(plan.families)
    rows = list(zip(plan.tasks(), trained.trajectories, before.trajectories, strict=True))[:kept]
    examples: list[Example] = []
    for family in plan.families:
        of_family = [row for row in rows if row[0].task_type == family]
        good = [row for row in of_family if (row[1].score or 0.0) >= SUCCESS][:_SHOWN]
        bad = [row for row in of_family if (row[1].score or 0.0) < SUCCESS][:_SHOWN]
        examples += [_example(task, new, old, stores) for task, new, old in (*good, *bad)]
    return examples


def _example(task: EditTask, trained: Trajectory, before: Trajectory, stores: Mapping[str, ImageStore]) -> Example:
    runs = [
        (label, trajectory, _final(trajectory, stores[label]))
        for label, trajectory in (("trained", trained), ("warm start", before))
    ]
    target = load_image(task.target) if task.target is not None else None
    return Example(task.task_type, task.instruction, load_image(task.images[0]), target, runs)


def _final(trajectory: Trajectory, store: ImageStore) -> Image.Image | None:
    return store.get(trajectory.final_image) if trajectory.final_image else None


def _strip(example: Example, path: Path) -> None:
    shown = [Step(example.instruction, example.source)]
    shown += [Step(f"{label}: {t.score or 0.0:.0f}", image) for label, t, image in reversed(example.runs) if image]
    write_steps(shown, path, side=168)
