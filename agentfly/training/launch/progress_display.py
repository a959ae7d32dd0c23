"""Show the progress of the parts of a run: bars on a terminal, a line at every tenth in a log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LEAST_SECONDS = 2.0  # between two lines of a part, so that a short part has few lines


@dataclass
class _Part:
    bar: TaskID
    begun: float
    reported: float
    tenths: int = 0


class ProgressDisplay:
    """Display of the progress of the parts of a run, for a `with` block. Safe to use from several threads.

    Args:
        console: a terminal gets bars; anything else gets lines.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            TextColumn("{task.description:<32}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self._parts: dict[str, _Part] = {}

    def __enter__(self) -> ProgressDisplay:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, name: str, done: int, total: int, *, note: str = "") -> None:
        """Show that `done` of `total` pieces of a part are finished.

        Args:
            name: of the part.
            done: pieces that are finished; the first call, with 0, starts the part's clock.
            total: pieces of the part.
            note: shown beside them, such as a figure of the last piece.
        """
        if (part := self._parts.get(name)) is None:
            now = time.monotonic()
            part = self._parts[name] = _Part(self._bars.add_task(name, total=total, note=note), now, now)
            self._line(f"{name}: begins")
        self._bars.update(part.bar, completed=done, total=total, note=note)
        tenths, now = 10 * done // max(1, total), time.monotonic()
        if tenths > part.tenths and (now - part.reported > _LEAST_SECONDS or done == total):
            part.tenths, part.reported = tenths, now
            elapsed = now - part.begun
            left = f", about {elapsed / done * (total - done):.0f} s left" if done < total else ""
            self._line(f"{name}: {done} of {total}, {elapsed:.0f} s{left}{f'; {note}' if note else ''}")

    def say(self, text: str) -> None:
        """Print a line, on a terminal above the bars."""
        self._bars.console.print(text, highlight=False)

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self.say(text)
