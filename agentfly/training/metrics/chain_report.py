"""The parts of a finished chain's report for the step metrics: facts about its health, and the times of its work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agentfly.agents import ToolRecord, Trajectory
from agentfly.errors import ImageError
from agentfly.images import ImageStore, on_white
from agentfly.images.store import HANDLE
from agentfly.training.metrics.health import ChainFacts, chain_facts

# Mean difference of two images, in levels of 0 to 255, below which an edit counts as none: encoding changes as much.
NO_CHANGE = 0.5


@dataclass(frozen=True)
class Interval:
    """The time that a generation or a tool call took, in seconds since 1970; `tool` is "" for the policy."""

    tool: str
    start: float
    end: float


def facts_of(trajectory: Trajectory, store: ImageStore) -> ChainFacts:
    """Return the facts for the health monitor.

    Args:
        trajectory: finished.
        store: with its images.
    """
    edits = [record for record in trajectory.tool_records if record.error is None and _source(record, trajectory)]
    return chain_facts(
        trajectory.tool_records,
        answered=trajectory.answered,
        edits=len(edits),
        no_op_edits=sum(not _changed(record, trajectory, store) for record in edits),
        coverage=[share for record in edits if (share := _coverage(record, trajectory, store)) is not None],
    )


def intervals_of(trajectory: Trajectory) -> list[Interval]:
    """Return the times in which the policy generated and its tools ran.

    Calls of tools that do not exist are all named "unknown": the names become names of metrics, and models invent many.
    """
    known = {tool["function"]["name"] for tool in trajectory.tools}

    def label(record: ToolRecord) -> str:
        return "malformed" if not record.name else record.name if record.name in known else "unknown"

    found = [Interval("", turn.began, turn.began + turn.seconds) for turn in trajectory.turns]
    return found + [Interval(label(r), r.began, r.began + r.seconds) for r in trajectory.tool_records]


def turn_results(trajectory: Trajectory) -> list[str | None]:
    """Return the handle of the image after each turn that edited; None for the other turns."""
    made = [[r.images[-1] for r in turn.tools if r.images and _source(r, trajectory)] for turn in trajectory.turns]
    return [handles[-1] if handles else None for handles in made]


def _source(record: ToolRecord, trajectory: Trajectory) -> str | None:
    """Return the handle of the image that a call edited; None for a call that edited none.

    Our own tools name it, even where nothing changed. A tool of anybody's edits if it made an image that may be the
    result; its source is the first image that its arguments name.
    """
    if record.looks:
        return None
    # A tool of anybody's may have a word of its own under this name.
    if isinstance(own := record.data.get("source"), str) and HANDLE.fullmatch(own):
        return own
    if trajectory.answered and record is trajectory.tool_records[-1]:
        return None  # the answer is the image of an edit before it
    names = {handle: name for name, handle in trajectory.names.items()}
    if not any(names.get(handle, "").startswith("img_") for handle in record.images):
        return None
    given = (trajectory.names.get(value) for value in record.arguments.values() if isinstance(value, str))
    return next((handle for handle in given if handle is not None), None)


def _changed(record: ToolRecord, trajectory: Trajectory, store: ImageStore) -> bool:
    source = _source(record, trajectory)
    if not record.images or source is None:
        return False
    before, after = (on_white(store.get(handle)) for handle in (source, record.images[-1]))
    if before.size != after.size:
        return True
    difference = np.abs(np.asarray(before, np.int16) - np.asarray(after, np.int16))
    # A small edit changes few pixels much: a small mean, but not a small maximum.
    return bool(difference.mean() >= NO_CHANGE or difference.max() >= 32)


def _coverage(record: ToolRecord, trajectory: Trajectory, store: ImageStore) -> float | None:
    name = record.arguments.get("mask_id")
    handle = record.data.get("mask") or (trajectory.names.get(name) if isinstance(name, str) else None)
    if not isinstance(handle, str):
        return None
    try:
        return float((np.asarray(store.get(handle).convert("L")) > 127).mean())
    except ImageError:
        return None
