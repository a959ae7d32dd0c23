"""Read the progress of a running trainer: phases and errors from its log, numbers from its metrics file."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from pathlib import Path
from typing import Literal, TypeAlias

from agentfly.redaction import LogFormatter

Phase: TypeAlias = Literal["ray", "workers", "engine", "training"]

# A run begins in phase "ray"; each later phase begins when its line appears. The lines are Ray's and verl 0.9.1's
# (trainer_base.py), the alternatives those that need no VERL_LOGGING_LEVEL=INFO.
PHASE_MARKS: tuple[tuple[Phase, re.Pattern[str]], ...] = (
    ("workers", re.compile(r"Started a local Ray instance|Connected to Ray cluster")),
    ("engine", re.compile(r"reward loop manager initialized|\(vLLMHttpServer pid=")),
    ("training", re.compile(r"all initialize finished, ready to fit|Training Progress:")),
)
SAMPLED = "agentfly: rollouts are done for step"
NOTICE = "agentfly notice:"  # begins the trainer's messages to the user
_PREFIX = re.compile(r"\x1b\[[0-9;]*m|^\([^()]*pid=\d+[^()]*\) ?|^ray\.exceptions\.\w+\(\w+\): .*")
# Ray names the actor that died in the lines below its message.
_DETAIL = re.compile(r"^\s+(class_name|pid): (\S+)")
_DETAIL_LINES = 4
_ERROR = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Died|Exit): \S")


class LineReader:
    """Reader of the lines that are added to a growing file; the file may not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_lines(self) -> list[str]:
        """Return the complete lines since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        self._offset += end
        return data[:end].decode("utf-8", errors="replace").splitlines()


class _NoticeFormatter(LogFormatter):
    """Formatter that marks warnings, so that the launcher shows them on its console; see `notice_in`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.levelno >= logging.WARNING:
            record.message = f"{NOTICE} {record.message}"
        return super().formatMessage(record)


def log_to_run(*, notices: bool = False) -> None:
    """Send agentfly's own log lines of this process to standard error, and so to the log of the run.

    Call it in every process that verl starts. Libraries that are imported there change the root logger, and our lines
    would be lost; verl protects its own lines in the same way (verl/utils/logging_utils.py).

    Args:
        notices: mark warnings as messages to the user, as the trainer's are.
    """
    handler = logging.StreamHandler(sys.stderr)
    formatter = _NoticeFormatter if notices else LogFormatter
    handler.setFormatter(formatter("%(levelname)s:%(asctime)s:%(message)s"))
    ours = logging.getLogger("agentfly")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.INFO)


class PhaseReader:
    """Recogniser of a run's phases by the lines of its log; phases come in order, and none comes twice."""

    def __init__(self) -> None:
        self._ahead = list(PHASE_MARKS)

    def read(self, line: str) -> list[Phase]:
        """Return the phases that begin with this line; more than one when the line of an earlier phase never came."""
        for index, (_, mark) in enumerate(self._ahead):
            if mark.search(line):
                begun, self._ahead = self._ahead[: index + 1], self._ahead[index + 1 :]
                return [phase for phase, _ in begun]
        return []


def notice_in(line: str) -> str | None:
    """Return the message to the user that a line of the log holds; None if there is none."""
    _, mark, text = clean(line).partition(f"{NOTICE} ")
    return text if mark else None


def parse_metrics(line: str) -> tuple[int, dict[str, float]]:
    """Parse a line of verl's file logger into the step and its finite numbers by name."""
    record = json.loads(line)
    values = {
        name: float(value)
        for name, value in record["data"].items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    return int(record["step"]), values


def metrics_so_far(metrics_file: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the number and the metrics of each step so far, in order; a validation before the first one is step 0."""
    if not metrics_file.is_file():
        return []
    with metrics_file.open(encoding="utf-8") as lines:
        return [parse_metrics(line) for line in lines]


def steps_so_far(metrics_file: Path) -> list[dict[str, float]]:
    """Return the metrics of the training steps so far; none before the first step."""
    return [values for step, values in metrics_so_far(metrics_file) if step > 0]


def last_error(lines: list[str]) -> str | None:
    """Return the last error message in a log, without Ray's prefixes; None if there is none.

    Where an actor died, its class and process id follow the message.
    """
    texts = [clean(line) for line in lines]
    for index in reversed(range(len(texts))):
        if _ERROR.match(texts[index]):
            below = texts[index + 1 : index + 1 + _DETAIL_LINES]
            details = {found[1]: found[2] for text in below if (found := _DETAIL.match(text))}
            actor = f" ({details['class_name']}, pid {details.get('pid', '?')})" if "class_name" in details else ""
            return texts[index] + actor
    return None


def clean(line: str) -> str:
    """Return a line of the log without colours and without Ray's process name."""
    while (shorter := _PREFIX.sub("", line)) != line:
        line = shorter
    return line.rstrip()
