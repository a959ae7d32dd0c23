"""The metrics of a training run: `metrics.jsonl`, one line a step, `{"step": n, "data": {name: value}}`.

The file grows while it is read, its last line may be torn, and a value may be NaN or no number at all: what can be
read is shown, and the rest is counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from agentfly.viewer.runs.facts import is_number
from agentfly.viewer.runs.growing import GrowingFile

_MOST_NAMES = 2000  # of metrics
_LONGEST_NAME = 200

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Metrics:
    """The metrics of a run so far.

    Attributes:
        series: points (step, value) by name, in order of the steps.
        damaged: lines that are no metrics.
        not_finite: by name, the last step whose value was NaN or infinite.
    """

    series: Mapping[str, Points] = field(default_factory=dict)
    damaged: int = 0
    not_finite: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Numbers of the training steps that have metrics; a validation before the first is none."""
        return tuple(sorted({int(step) for points in self.series.values() for step, _ in points if step > 0}))

    def get(self, name: str) -> Points:
        """Return the points of a metric, none where it is not known."""
        return self.series.get(name, ())

    def last(self, *names: str) -> float | None:
        """Return the newest value of the first of some metrics that is known; None where there is none."""
        return next((points[-1][1] for name in names if (points := self.get(name))), None)

    def under(self, prefix: str) -> dict[str, Points]:
        """Return the metrics whose names begin with a prefix, by the rest of their names."""
        return {name.removeprefix(prefix): points for name, points in self.series.items() if name.startswith(prefix)}


class MetricsFile:
    """Reader of the metrics of a run that may still grow. Safe to use from several threads.

    Args:
        path: of the file, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._file = GrowingFile(path)
        self._forget()

    def read(self) -> Metrics:
        """Return the metrics so far."""
        with self._file.lock:
            lines, anew = self._file.new_lines()
            if anew:
                self._forget()
            for line in lines:
                if line.strip():
                    self._add(line)
            if lines or anew:
                series = {name: tuple(sorted(points.items())) for name, points in self._values.items()}
                self._known = Metrics(series, self._damaged, dict(self._not_finite))
            return self._known

    def _forget(self) -> None:
        self._values: dict[str, dict[float, float]] = {}
        self._not_finite: dict[str, int] = {}
        self._damaged = 0
        self._known = Metrics()

    def _add(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            step, data = record["step"], record["data"]
            if isinstance(step, bool) or not isinstance(step, int) or abs(step) > 2**53:
                raise ValueError("no step")
            entries = list(data.items())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self._damaged += 1
            return
        for name, value in entries:
            if isinstance(value, bool) or not isinstance(value, int | float) or len(name) > _LONGEST_NAME:
                continue
            if not is_number(value):
                self._not_finite[name] = step
            elif name in self._values or len(self._values) < _MOST_NAMES:
                # A step that is there twice was trained again: the newer line counts.
                self._values.setdefault(name, {})[float(step)] = float(value)
