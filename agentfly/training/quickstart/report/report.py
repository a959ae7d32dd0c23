"""The report of a quickstart: one HTML file that needs neither network nor script.

Text that a policy wrote is hostile: the templates escape everything, and the page forbids itself to load anything.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from agentfly.agents.trajectory import Trajectory
from agentfly.evaluation.report.html import image_uri, page_templates
from agentfly.evaluators.bootstrap import SUCCESS
from agentfly.files import write_text
from agentfly.messages import Message
from agentfly.training.quickstart.report import tables

_FOLDER = Path(__file__).parent
_MAX_TEXT = 1200


@dataclass(frozen=True)
class Example:
    """A task, and the results of several policies.

    Attributes:
        family: of the task; the page groups by it.
        instruction: of the task.
        source: the image before editing.
        target: the wanted image, None where it is not known.
        runs: label ("trained", "warm start"), trajectory, and the edited image, None where there is none.
    """

    family: str
    instruction: str
    source: Image.Image
    target: Image.Image | None
    runs: Sequence[tuple[str, Trajectory, Image.Image | None]]


@dataclass(frozen=True)
class Report:
    """The contents of the page.

    Attributes:
        title: of the page.
        summary: content of the run's `summary.json`; figures that it lacks are left out of the page.
        curve: PNG of the learning curve, or None.
        examples: of the gallery, in this order within their families.
    """

    title: str
    summary: tables.Summary
    curve: Path | None = None
    examples: Sequence[Example] = ()


@dataclass(frozen=True)
class _Call:
    """A tool call in the gallery."""

    name: str
    arguments: tuple[tuple[str, str], ...]
    observation: str
    engine: str
    failed: bool


@dataclass(frozen=True)
class _Run:
    label: str
    trajectory: Trajectory
    done: bool
    image: str | None
    steps: tuple[_Call | str, ...]


@dataclass(frozen=True)
class _Card:
    instruction: str
    source: str
    target: str | None
    runs: tuple[_Run, ...]


def write_report(path: Path, report: Report) -> Path:
    """Write the page as one HTML file with all images inside.

    Args:
        path: of the HTML file; its folder is made.
        report: contents of the page.

    Returns:
        The path.
    """
    curve = None
    if report.curve is not None:
        # The file as it is: encoding it again would make it larger.
        curve = f"data:image/png;base64,{base64.b64encode(report.curve.read_bytes()).decode('ascii')}"
    template = page_templates(_FOLDER).get_template("report.html.jinja")
    gallery = _gallery(report.examples)
    html = template.render(title=report.title, summary=report.summary, tables=tables, curve=curve, gallery=gallery)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, html)


def _gallery(examples: Sequence[Example]) -> dict[str, list[_Card]]:
    """Return the cards by family, in the order of the examples."""
    gallery: dict[str, list[_Card]] = {}
    for example in examples:
        runs = tuple(
            _Run(
                label,
                trajectory,
                done=(trajectory.score or 0.0) >= SUCCESS,
                image=image_uri(result) if result is not None else None,
                steps=tuple(_steps(trajectory)),
            )
            for label, trajectory, result in example.runs
        )
        target = image_uri(example.target) if example.target is not None else None
        card = _Card(example.instruction, image_uri(example.source), target, runs)
        gallery.setdefault(example.family, []).append(card)
    return gallery


def _steps(trajectory: Trajectory) -> Iterator[_Call | str]:
    """Yield the calls of a chain in order, and the text of turns that made none."""
    for turn, observations in zip(trajectory.turns, _observations(trajectory), strict=False):
        if not turn.tools:
            yield _clip(turn.text)
        for index, record in enumerate(turn.tools):
            # The last observations of a chain never reach the policy, so no message holds them.
            seen = _clip(observations[index].text if index < len(observations) else record.error or "")
            if record.malformed:
                yield _Call(record.name or "malformed call", (("as written", _clip(turn.text)),), seen, "", True)
                continue
            arguments = tuple(
                (name, _clip(json.dumps(value, ensure_ascii=False))) for name, value in record.arguments.items()
            )
            yield _Call(record.name, arguments, seen, record.engine, record.error is not None)


def _observations(trajectory: Trajectory) -> list[list[Message]]:
    """Return the tool messages that answer each turn of the chain, without those of turns in its prompt."""
    answers: list[list[Message]] = []
    for message in trajectory.messages:
        if message.role == "assistant":
            answers.append([])
        elif message.role == "tool" and answers:
            answers[-1].append(message)
    return answers[len(answers) - len(trajectory.turns) :]


def _clip(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} … ({len(text) - _MAX_TEXT} more characters)"
