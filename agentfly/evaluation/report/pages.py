"""Write `summary.json`, `summary.md` and `gallery.html`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from agentfly.agents.display.strip import steps
from agentfly.errors import ImageError
from agentfly.evaluation.protocols.spec import BoundProtocol
from agentfly.evaluation.report.gallery import GalleryCard, thumbnail, write_gallery
from agentfly.evaluation.report.markdown import run_page
from agentfly.evaluation.report.summary import About, Summary, summarise
from agentfly.evaluation.task_record import TaskRecord, without_hollow_scores
from agentfly.evaluators import NotScored, Score
from agentfly.files import write_text
from agentfly.images import ImageStore


def write_pages(
    folder: Path,
    records: Sequence[TaskRecord],
    labels: Sequence[str],
    images: ImageStore,
    about: About,
    shown: int,
    protocol: BoundProtocol | None = None,
) -> Summary:
    """Write the pages and return the summary.

    Args:
        folder: where to write them.
        records: of the tasks.
        labels: of the evaluators, the headline first.
        images: the images that the records name.
        about: agent and data set.
        shown: tasks in the gallery at most; 0 for no gallery.
        protocol: of a benchmark, where there is one.
    """
    records = without_hollow_scores(records)
    summary = summarise(records, labels, about, protocol)
    write_text(folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / "summary.md", run_page(summary))
    if shown:
        worst = worst_first(records, labels[0])
        title = f"{summary['agent']} on {summary['data']}"
        cards = (_card(record, labels, images) for record in worst[:shown])
        write_gallery(folder / "gallery.html", title, cards, total=len(records))
    return summary


def worst_first(records: Sequence[TaskRecord], label: str) -> list[TaskRecord]:
    """Return the records by score, those without one first: they need a look most."""

    def key(record: TaskRecord) -> tuple[float, str]:
        value = record.value(label)
        return (-1.0 if value is None else value, record.id)

    return sorted(records, key=key)


def _card(record: TaskRecord, labels: Sequence[str], images: ImageStore) -> GalleryCard:
    trajectory, task = record.trajectory, record.task
    errors = [f"{call.name or 'malformed call'}: {call.error}" for call in trajectory.tool_records if call.error]
    headline = record.scores.get(labels[0])
    scores = []
    for label in labels:
        score = record.scores.get(label)
        reason = score.reason if isinstance(score, NotScored) else "no reason given"
        scores.append((label, f"{score.value:.1f}" if isinstance(score, Score) else f"not scored: {reason}"))
    return GalleryCard(
        id=record.id,
        task_type=task.task_type,
        instruction=task.instruction,
        score=record.value(labels[0]),
        scores=tuple(scores),
        feedback=headline.feedback if isinstance(headline, Score) else "",
        source=_image(task.images[0] if task.images else None, images),
        steps=tuple(_steps(record, images)),
        result=_image(trajectory.final_image, images),
        target=_image(task.target, images),
        ending=trajectory.stop_reason.value if trajectory.stop_reason else "unknown",
        facts=f"{len(trajectory.turns)} turns, {len(trajectory.tool_records)} calls, {trajectory.seconds:.1f} s",
        errors=(*errors, *filter(None, [trajectory.error])),
    )


def _steps(record: TaskRecord, images: ImageStore) -> Iterator[tuple[str, str]]:
    """Yield captions and images between the source and the answer."""
    try:
        made = steps(record.trajectory, images)
    except ImageError:
        return
    for step in made:
        if step.caption.partition(": ")[2] != "given" and not step.caption.startswith("answer: "):
            yield step.caption, thumbnail(step.image)


def _image(handle: str | None, images: ImageStore) -> str | None:
    if handle is None:
        return None
    try:
        return thumbnail(images.get(handle))
    except ImageError:
        return None
