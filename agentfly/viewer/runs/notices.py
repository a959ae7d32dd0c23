"""What a training run said to its user: the warnings of its trainer, and the error that ended it, from its logs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from agentfly.errors import printable
from agentfly.redaction import redact
from agentfly.viewer.runs.growing import GrowingFile

NOTICE = b"agentfly notice: "  # begins a message to the user; see `agentfly.training.launch.log_reader`
SAMPLED = b"agentfly: rollouts are done for step"  # of a step that goes well
_HEALTH = re.compile(r"step (\d+): (\w+) is ")  # of the health monitor
_PREFIXES = rb"^(?:\x1b\[[0-9;]*m|\([^()]*pid=\d+[^()]*\) ?)*"  # colours, and the name of Ray's process
_ERROR = re.compile(_PREFIXES + rb"((?:\w+\.)*\w*(?:Error|Exception|Died|Exit): \S.*)")
_MOST, _LONGEST = 50, 600


@dataclass(frozen=True)
class Notice:
    """A warning of the trainer.

    Attributes:
        text: as it was written, without secrets.
        step: that it is about; None where it names none.
        metric: of the health monitor, such as "no_op_edits"; "" for other warnings.
        count: times that it came; text and step are those of the last.
    """

    text: str
    step: int | None = None
    metric: str = ""
    count: int = 1


@dataclass(frozen=True)
class LogNotices:
    """The warnings of a run's newest launch, the last one first, and the last error in its log ("" for none)."""

    notices: tuple[Notice, ...] = ()
    error: str = ""


class RunLogs:
    """Reader of the newest log of a run that may still grow.

    Args:
        folder: with the logs, which need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = GrowingFile(folder / "none.log")
        self._found: dict[str, Notice] = {}
        self._error = ""

    def read(self) -> LogNotices:
        """Return the warnings so far."""
        try:
            newest = max(self._folder.glob("*.log"), key=lambda path: path.name, default=None)
        except OSError:
            newest = None
        with self._file.lock:
            if newest is not None:
                self._file.path = newest
            lines, anew = self._file.new_lines()
            if anew:
                self._found, self._error = {}, ""
            for line in lines:
                self._add(line)
            return LogNotices(tuple(reversed(self._found.values())), self._error)

    def _add(self, line: bytes) -> None:
        _, mark, said = line.partition(NOTICE)
        if mark:
            notice = _notice(_clean(said))
            key = notice.metric or re.sub(r"[\d.]+", "#", notice.text)
            before = self._found.pop(key, None)
            if before is not None or len(self._found) < _MOST:
                count = 1 if before is None else before.count + 1
                self._found[key] = Notice(notice.text, notice.step, notice.metric, count)
        elif SAMPLED in line:
            self._error = ""  # an error from before the run last moved did not stop it
        elif found := _ERROR.match(line[: 4 * _LONGEST]):
            self._error = _clean(found[1])


def _notice(text: str) -> Notice:
    found = _HEALTH.match(text)
    if found is None:
        step = re.match(r"step (\d{1,12}):", text)
        return Notice(text, None if step is None else int(step[1]))
    return Notice(text, int(found[1][:12]), found[2])


def _clean(text: bytes) -> str:
    return printable(redact(text.decode("utf-8", "replace")))[:_LONGEST].strip()
