"""The stopwatch of `gpu.py`: seconds, tokens a second and memory of each piece of work, within a limit of time."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from agentfly.errors import first_line

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        part: of the benchmark.
        model: that was measured.
        what: was done.
        seconds: median of the calls.
        figures: further figures by name.
        note: reason for which there are none.
        failed: the work raised an error, which is in the note.
    """

    part: str
    model: str
    what: str
    seconds: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    failed: bool = False


class Bench:
    """Measures work and keeps the rows.

    Args:
        device: "cuda" or "cpu".
        tiny: small models.
        seconds: after which no further work begins.
        on_row: called with each row.
    """

    def __init__(self, device: str, *, tiny: bool, seconds: float, on_row: Callable[[Row], None]) -> None:
        self.device, self.tiny = device, tiny
        self.rows: list[Row] = []
        self.part = self.model = ""
        self._end = time.monotonic() + seconds
        self._on_row = on_row

    @contextlib.contextmanager
    def of(self, model: str) -> Iterator[None]:
        """Name the model of the rows inside; an error there becomes a row."""
        self.model = model
        try:
            yield
        except Exception as fault:
            self._note("all of it", f"{type(fault).__name__}: {first_line(fault)}", failed=True)
        finally:
            self.model = ""
            self.free()

    def free(self) -> None:
        """Give back the memory of models that are gone."""
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()

    def room(self, what: str) -> bool:
        """Return True if there is time for more work; otherwise note that it was left out."""
        self.free()
        if time.monotonic() < self._end:
            return True
        self._note(what, "left out: the time is used up")
        return False

    def skip(self, what: str, reason: str) -> None:
        """Note what cannot be measured here, and why."""
        self._note(what, f"skipped: {reason}")

    def add(self, what: str, **figures: float) -> None:
        """Add a row of figures that are no times."""
        self._add(Row(self.part, self.model, what, None, figures))

    def measure(
        self, what: str, work: Callable[[], T], *, calls: int, tokens: int = 0, images: int = 0, **figures: float
    ) -> T | None:
        """Time work, after one call that is not timed, and return its last result; None if it was left out or failed.

        Args:
            what: name of the row.
            work: is called `calls` + 1 times.
            calls: that are timed.
            tokens: of one call, for tokens a second.
            images: of one call, for images a second.
            figures: further ones for the row.
        """
        if not self.room(what):
            return None
        try:
            result = work()
            self._sync()
            if self.device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            took = []
            for _ in range(calls):
                begun = time.perf_counter()
                result = work()
                self._sync()
                took.append(time.perf_counter() - begun)
        except Exception as fault:
            self._note(what, f"{type(fault).__name__}: {first_line(fault)}", failed=True)
            return None
        seconds = statistics.median(took)
        found = dict(figures)
        if tokens:
            found |= {"tokens": tokens, "tokens_per_second": tokens / seconds}
        if images:
            found["images_per_second"] = images / seconds
        if self.device != "cpu":
            found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self._add(Row(self.part, self.model, what, seconds, found))
        return result

    def _sync(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()

    def _note(self, what: str, note: str, *, failed: bool = False) -> None:
        self._add(Row(self.part, self.model, what, note=note, failed=failed))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        self._on_row(row)
