"""Write the report and the images at the end of a quickstart run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from agentfly.agents.display.strip import Step, write_steps
from agentfly.datasets import EditTask
from agentfly.evaluators.bootstrap import SUCCESS, estimate
from agentfly.images import ImageStore, load_image
from agentfly.training.quickstart.evaluation import EvaluationPlan, read_evaluation
from agentfly.viewer import Example, Report, StepRecord, learning_curve, write_report

_CORRECT = 95.0  # a score that only the edit that was asked for gets
_EXAMPLES = 2  # successes, and failures, of each family
_LABELS = {"trained": "trained", "warm start": "warm_start"}  # of the runs of an example, with their folders


def write_run_report(
    out: Path, summary: Mapping[str, object], records: Sequence[StepRecord], plan: EvaluationPlan
) -> None:
    """Write `learning_curve.png`, `edit.png` and `report.html` into a run's folder.

    Args:
        out: folder of the run, with its evaluations.
        summary: content of the run's `summary.json`.
        records: figures of the training steps, in order.
        plan: of the evaluations.
    """
    title = f"{summary['algorithm']} on stickers, seed {summary['seed']}"
    passes = {label: read_evaluation(out / "evaluation" / folder / "greedy.jsonl") for label, folder in _LABELS.items()}
    curve = learning_curve(
        records,
        out / "learning_curve.png",
        title=title,
        warm_start=estimate(passes["warm start"].scores()),
        trained=estimate(passes["trained"].scores()),
    )
    stores = {label: ImageStore(out / "evaluation" / folder / "images") for label, folder in _LABELS.items()}

    def example_of(index: int, task: EditTask) -> Example:
        found = [(label, passes[label].trajectories[index]) for label in _LABELS]
        runs = [(label, t, stores[label].get(t.final_image) if t.final_image else None) for label, t in found]
        target = load_image(task.target) if task.target is not None else None
        return Example(task.task_type, task.instruction, load_image(task.images[0]), target, runs)

    trained = passes["trained"].trajectories
    kept = list(enumerate(plan.tasks()))[: plan.kept_per_family * len(plan.families)]
    examples: list[Example] = []
    for family in plan.families:
        of_family = [row for row in kept if row[1].task_type == family]
        good = [row for row in of_family if (trained[row[0]].score or 0.0) >= SUCCESS][:_EXAMPLES]
        bad = [row for row in of_family if (trained[row[0]].score or 0.0) < SUCCESS][:_EXAMPLES]
        examples += [example_of(*row) for row in (*good, *bad)]
    write_report(out / "report.html", Report(f"agentfly: {title}", summary, curve, examples))
    _write_strip(examples, out / "edit.png")


def _write_strip(examples: Sequence[Example], path: Path) -> None:
    """Draw the example that shows the gain best, if the trained policy succeeded in any."""

    def gain(example: Example) -> tuple[bool, float]:
        """Prefer examples with an image of both policies, the trained one's correct; then the larger gain in score."""
        (_, trained, _), (_, before, image_before) = example.runs
        after = trained.score or 0.0
        return image_before is not None and after >= _CORRECT, after - (before.score or 0.0)

    successes = [example for example in examples if (example.runs[0][1].score or 0.0) >= SUCCESS]
    if successes:
        example = max(successes, key=gain)
        steps = [Step(example.instruction, example.source)]
        steps += [Step(f"{label}: {t.score or 0.0:.0f}", image) for label, t, image in reversed(example.runs) if image]
        write_steps(steps, path, side=168)
