"""How far a run is, and whether it still goes on: for its overview and for the list of runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from agentfly.viewer.index.index import State
from agentfly.viewer.opened import OpenRun
from agentfly.viewer.runs.facts import read_object, settings_of
from agentfly.viewer.runs.folder import RunFolder
from agentfly.viewer.runs.generated import read_record, records
from agentfly.viewer.runs.metrics import Metrics
from agentfly.viewer.runs.notices import LogNotices

Stage = Literal["running", "finished", "failed", "stopped", ""]
STAGES: Mapping[Stage, str] = {
    "running": "running",
    "finished": "finished",
    "failed": "ended with an error",
    "stopped": "stopped",
    "": "",
}
_QUIET = 120.0  # seconds without a change after which a run no longer counts as running


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        stage: "failed" where it ended early and its log has an error; "" where nothing tells.
        step: newest training step; 0 for none.
        total: steps of the whole run; None where they are not known.
        unfinished: something of it is still to come.
        words: how far it is; "" where there are no steps.
        updated: when its files changed last, ISO 8601; "" where it is not known.
        error: that ended it; "" for none.
    """

    stage: Stage
    step: int
    total: int | None
    unfinished: bool
    words: str
    updated: str
    error: str = ""

    @property
    def status(self) -> str:
        """Stage and place in words."""
        return ", ".join(word for word in (STAGES[self.stage], self.words) if word)


def progress_of(opened: OpenRun, state: State, logs: LogNotices) -> Progress:
    """Return how far a run is now.

    Args:
        opened: the run.
        state: of its index.
        logs: warnings and the last error of its trainer.
    """
    run, metrics = opened.run, opened.metrics()
    text = settings_of(run).get("trainer.total_training_steps")
    total = int(text) if text.isdecimal() and len(text) < 12 else None
    (newest,) = opened.index.query("SELECT MAX(step) AS step FROM chains WHERE validate IS NOT 1")
    step = max((*metrics.steps, newest["step"] or 0))
    ended = _has_ended(run)
    trained = run.training is not None
    unfinished = (total is not None and step < total) if trained and run.kind != "quickstart" else not ended
    changed = _changed(run)
    stage: Stage = "" if trained and run.kind != "quickstart" and total is None else "finished"
    if unfinished:
        stage = _unfinished_stage(run, state, metrics, changed, logs)
    error = logs.error if stage == "failed" else ""
    return Progress(stage, step, total, unfinished, _words(state, step, total, trained), _iso_time(changed), error)


def progress_of_images(run: RunFolder) -> Progress:
    """Return how far the newest record of a run of image generation is now.

    Raises:
        ConfigError: it is gone, or damaged.
    """
    newest = next(iter(records(run).values()), run.path)
    found = read_record(run.kind, newest)
    changed = newest.stat().st_mtime
    quiet = time.time() - changed >= _QUIET
    stage: Stage = "stopped" if quiet else "running"
    if not found.running:
        stage = "failed" if found.error else "finished"
    words = f"{len(found.rounds)} round{'' if len(found.rounds) == 1 else 's'}"
    return Progress(stage, 0, None, found.running, words, _iso_time(changed), found.error or "")


def _has_ended(run: RunFolder) -> bool:
    """Return True if a run has written what it writes at its end."""
    if run.kind == "trial":
        return "metrics" in read_object(run.folder / "trial.json")
    return bool(read_object(run.folder / "summary.json"))


def _iso_time(seconds: float) -> str:
    """Return seconds since 1970 in the form of ISO 8601; "" for 0."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else ""


def _unfinished_stage(run: RunFolder, state: State, metrics: Metrics, changed: float, logs: LogNotices) -> Stage:
    if time.time() - changed < max(_QUIET, 3 * (metrics.last("timing_s/step") or 0.0)):
        return "running"
    # Chains of an agent have no end, and what is not read yet may be it.
    if run.kind == "chains" or not state.complete:
        return ""
    return "failed" if logs.error else "stopped"


def _words(state: State, step: int, total: int | None, trained: bool) -> str:
    if not state.complete:
        return f"reading the run: {state.read / state.size:.0%} of its chains"
    if not trained:
        return ""
    of = f" of {total}" if total else ""
    return f"step {step}{of}" if step else "no step is finished yet"


def _changed(run: RunFolder) -> float:
    """Return when the files of a run changed last, in seconds since 1970; 0 where it is not known."""
    newest = 0.0
    for path in (*(part.path for part in run.parts()), *run.marks()):
        try:
            newest = max(newest, path.stat().st_mtime)
        except OSError:
            continue
    return newest
