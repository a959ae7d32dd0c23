"""Lines and runs that are made without an agent, and the server of their pages."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from agentfly.agents.tasks import TaskFacts
from agentfly.agents.trajectory import StopReason, ToolRecord, Trajectory, Turn
from agentfly.agents.trajectory_file import FILE_NAME, TrajectoryLine
from agentfly.viewer.command import find_runs
from agentfly.viewer.index import Index
from agentfly.viewer.opened import Viewer
from agentfly.viewer.runs.folder import RunFolder, find_run
from agentfly.viewer.server import create_app


def line(key: str, *, step: int | None = 1, validate: bool | None = False, **changes: Any) -> bytes:
    """Return the line of a chain of one turn and one call.

    Args:
        key: id of the chain.
        step, validate: of the line.
        **changes: attributes of the trajectory, and `task`, `type`, `instruction` and `tool`.
    """
    task = TaskFacts(
        changes.pop("task", f"task-{key}"),
        changes.pop("instruction", "Remove the star"),
        changes.pop("type", "named"),
    )
    call = ToolRecord(changes.pop("tool", "detect_objects"), {}, 0.1, "classical", looks=True)
    given: dict[str, Any] = {
        "turns": [Turn("I look.", "stop", 0.5, (call,), 0, 7)],
        "stop_reason": StopReason.ANSWERED,
        "score": 50.0,
        "reward": 0.5,
        "final_image": "img_000000000001",
        "seconds": 1.5,
    }
    trajectory = Trajectory(key, changes.pop("group", f"group-{key}"), [], **(given | changes))
    return f"{TrajectoryLine(trajectory, task, step=step, validate=validate).to_json()}\n".encode()


def run_of(folder: Path, *lines: bytes) -> tuple[RunFolder, Path]:
    """Return a run with these lines, and its file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE_NAME
    file.write_bytes(b"".join(lines))
    return find_run(folder, "run"), file


def append(file: Path, *data: bytes) -> None:
    """Append to a file, as a running process does."""
    with file.open("ab") as out:
        out.write(b"".join(data))


def replace(file: Path, data: bytes) -> None:
    """Put another file in the place of one, as a resume does."""
    other = file.with_suffix(".new")
    other.write_bytes(data)
    os.replace(other, file)


def content(index: Index) -> list[tuple[Any, ...]]:
    """Return the rows of an index in their order, without their numbers."""
    columns = [row["name"] for row in index.query("SELECT name FROM pragma_table_info('chains')") if row["name"] != "n"]
    return [tuple(row) for row in index.query(f"SELECT {', '.join(columns)} FROM chains ORDER BY n")]


def keys(index: Index) -> list[str]:
    """Return the keys of the chains, in their order."""
    return [row["key"] for row in index.query("SELECT key FROM chains ORDER BY n")]


@contextmanager
def serving(*folders: Path) -> Iterator[TestClient]:
    """Serve the pages of runs to a test."""
    with TestClient(create_app(Viewer(find_runs(folders))), base_url="http://127.0.0.1") as client:
        yield client


def text_of(page: str) -> str:
    """Return the text of a page without its tags, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def links_of(page: str, part: str = "") -> list[str]:
    """Return the addresses in a page that contain a text."""
    return [html.unescape(found) for found in re.findall(r'href="([^"]*)"', page) if part in found]
