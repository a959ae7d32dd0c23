"""The report of a training run: a single HTML file that opens anywhere, without network or script.

What a policy wrote is hostile text: the template escapes everything, and the page forbids itself to load anything.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from agentfly.agents.trajectory import ToolRecord, Trajectory, Turn
from agentfly.evaluators.bootstrap import SUCCESS
from agentfly.files import write_text
from agentfly.messages import Message
from agentfly.viewer import tables

_FOLDER = Path(__file__).parent
_MAX_SIDE = 336  # of an image on the page: twice the 168 pixels it is shown at
_MAX_TEXT = 1200


@dataclass(frozen=True)
class Example:
    """One task and what policies made of it.

    Attributes:
        family: of the task; the page groups by it.
        instruction: what was asked.
        source: the image before.
        target: the wanted image, where it is known.
        runs: label ("trained", "warm start"), trajectory, and the image after, or None when there is none.
    """

    family: str
    instruction: str
    source: Image.Image
    target: Image.Image | None
    runs: Sequence[tuple[str, Trajectory, Image.Image | None]]


@dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        title: of the page.
        summary: content of the run's `summary.json`; whatever it lacks is left out of the page.
        curve: PNG of the learning curve, or None.
        examples: for the gallery, shown in this order within their families.
    """

    title: str
    summary: Mapping[str, Any]
    curve: Path | None = None
    examples: Sequence[Example] = ()


@dataclass(frozen=True)
class _Call:
    """A tool call as the gallery shows it."""

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
        path: of the HTML file.
        report: what to show.

    Returns:
        The path.
    """
    html = (
        page_templates()
        .get_template("report.html.jinja")
        .render(
            title=report.title,
            summary=report.summary,
            tables=tables,
            curve=_data_uri(report.curve.read_bytes(), "png") if report.curve is not None else None,
            gallery=_gallery(report.examples),
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, html)


def page_templates() -> Environment:
    """The templates of this folder; what is put into them is escaped."""
    return Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def image_uri(image: Image.Image) -> str:
    """An image as a data URI: photographs as JPEG, masks and transparent images as PNG, no larger than shown."""
    small = image.copy()
    small.thumbnail((_MAX_SIDE, _MAX_SIDE))
    buffer = io.BytesIO()
    if small.mode in ("L", "RGBA"):
        small.save(buffer, "PNG", optimize=True)
        return _data_uri(buffer.getvalue(), "png")
    small.convert("RGB").save(buffer, "JPEG", quality=90, subsampling=0)
    return _data_uri(buffer.getvalue(), "jpeg")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _gallery(examples: Sequence[Example]) -> dict[str, list[_Card]]:
    """Cards by family, in the order of the examples."""
    gallery: dict[str, list[_Card]] = {}
    for example in examples:
        runs = tuple(_run(*run) for run in example.runs)
        target = image_uri(example.target) if example.target is not None else None
        card = _Card(example.instruction, image_uri(example.source), target, runs)
        gallery.setdefault(example.family, []).append(card)
    return gallery


def _run(label: str, trajectory: Trajectory, result: Image.Image | None) -> _Run:
    return _Run(
        label,
        trajectory,
        done=(trajectory.score or 0.0) >= SUCCESS,
        image=image_uri(result) if result is not None else None,
        steps=tuple(_steps(trajectory)),
    )


def _steps(trajectory: Trajectory) -> Iterator[_Call | str]:
    """What the chain did, in order: its calls, and the plain text of turns that made none."""
    for turn, observations in zip(trajectory.turns, _observations(trajectory), strict=False):
        if not turn.tools:
            yield _clip(turn.text)
        for index, record in enumerate(turn.tools):
            # The last observations of a chain never reach the policy, so no message holds them.
            seen = observations[index].text if index < len(observations) else record.error or ""
            yield _call(turn, record, seen)


def _observations(trajectory: Trajectory) -> list[list[Message]]:
    """Tool messages that answer each turn. Earlier turns of the prompt itself are not the chain's."""
    answers: list[list[Message]] = []
    for message in trajectory.messages:
        if message.role == "assistant":
            answers.append([])
        elif message.role == "tool" and answers:
            answers[-1].append(message)
    return answers[len(answers) - len(trajectory.turns) :]


def _call(turn: Turn, record: ToolRecord, seen: str) -> _Call:
    if record.malformed:
        return _Call(record.name or "malformed call", (("as written", _clip(turn.text)),), _clip(seen), "", True)
    arguments = tuple((name, _clip(json.dumps(value, ensure_ascii=False))) for name, value in record.arguments.items())
    return _Call(record.name, arguments, _clip(seen), record.engine, record.error is not None)


def _clip(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} … ({len(text) - _MAX_TEXT} more characters)"
