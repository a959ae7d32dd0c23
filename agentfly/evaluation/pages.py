"""Write `summary.json`, `summary.md` and `gallery.html`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentfly.agents.display.strip import steps
from agentfly.errors import ImageError
from agentfly.evaluation.markdown import run_page
from agentfly.evaluation.summary import summarise
from agentfly.evaluation.task_record import TaskRecord, without_hollow_scores
from agentfly.evaluators import NotScored
from agentfly.files import write_text
from agentfly.images import ImageStore
from agentfly.viewer.gallery import GalleryCard, thumbnail, write_gallery


def write_pages(
    folder: Path,
    records: Sequence[TaskRecord],
    labels: Sequence[str],
    images: ImageStore,
    about: Mapping[str, Any],
    shown: int,
) -> dict[str, Any]:
    """Write the pages and return the summary.

    Args:
        folder: gets them.
        records: of the tasks.
        labels: of the evaluators, the headline first.
        images: the images that the records name.
        about: what was evaluated, on what.
        shown: tasks in the gallery at most; 0 for no gallery.
    """
    records = without_hollow_scores(records)
    summary = summarise(records, labels, about)
    write_text(folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / "summary.md", run_page(summary))
    if shown:
        worst = worst_first(records, labels[0])
        title = f"{summary['agent']} on {summary['data']}"
        cards = (_card(record, labels, images) for record in worst[:shown])
        write_gallery(folder / "gallery.html", title, cards, total=len(records))
    return summary


def worst_first(records: Sequence[TaskRecord], label: str) -> list[TaskRecord]:
    """Records by score, those without one first: they are what one must look at."""

    def key(record: TaskRecord) -> tuple[float, str]:
        value = record.value(label)
        return (-1.0 if value is None else value, record.id)

    return sorted(records, key=key)


def _card(record: TaskRecord, labels: Sequence[str], images: ImageStore) -> GalleryCard:
    trajectory, task = record.trajectory, record.task
    errors = [f"{call.name or 'malformed call'}: {call.error}" for call in trajectory.tool_records if call.error]
    headline = record.scores.get(labels[0])
    return GalleryCard(
        id=record.id,
        task_type=task.task_type,
        instruction=task.instruction,
        score=record.value(labels[0]),
        scores=tuple((label, _score(record, label)) for label in labels),
        feedback="" if headline is None or isinstance(headline, NotScored) else headline.feedback,
        source=_image(task.images[0] if task.images else None, images),
        steps=tuple(_steps(record, images)),
        result=_image(trajectory.final_image, images),
        target=_image(task.target, images),
        ending=trajectory.stop_reason.value if trajectory.stop_reason else "unknown",
        facts=f"{len(trajectory.turns)} turns, {len(trajectory.tool_records)} calls, {trajectory.seconds:.1f} s",
        errors=(*errors, *filter(None, [trajectory.error])),
    )


def _score(record: TaskRecord, label: str) -> str:
    score = record.scores.get(label)
    if score is None or isinstance(score, NotScored):
        return f"not scored: {score.reason if score else 'no reason given'}"
    return f"{score.value:.1f}"


def _steps(record: TaskRecord, images: ImageStore) -> Iterator[tuple[str, str]]:
    """Captions and images between the source and the answer."""
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
