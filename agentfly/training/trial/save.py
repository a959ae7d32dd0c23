"""The folder of a trial: that of an evaluation, so that replay and galleries read it, and the metrics of the trial."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

from agentfly.agents.tasks import TaskFacts
from agentfly.agents.trajectory import StopReason, Trajectory
from agentfly.agents.trajectory_file import FILE_NAME
from agentfly.errors import ImageError
from agentfly.evaluation.report.pages import write_pages
from agentfly.evaluation.report.summary import About
from agentfly.evaluation.run_folder import RunFolder
from agentfly.evaluation.task_record import TaskRecord
from agentfly.evaluators import NotScored, Score
from agentfly.files import LineFile, check_replaceable, write_text
from agentfly.redaction import public_settings
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.trial.policy import Policy
from agentfly.training.trial.request import TrialRequest, TrialResult, TriedChain

MARKER = "trial.json"
_SHOWN = 100  # chains in the gallery


class Tried(Protocol):
    """The part of a trial that its folder names."""

    request: TrialRequest
    settings: TrainSettings
    policy: Policy


class TrialFolder:
    """The folder of a trial, opened for writing.

    Args:
        folder: made anew; an earlier trial there is replaced.
        trial: recipe and policy.

    Raises:
        ConfigError: the folder holds something else, or another process writes to it.
    """

    def __init__(self, folder: Path, trial: Tried) -> None:
        check_replaceable(folder, MARKER, "folder of a trial")
        if (folder / FILE_NAME).is_file():
            # Raises where another trial still writes to it.
            LineFile(folder / FILE_NAME, repr(str(folder))).close()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder, self._settings, self._policy = folder, trial.settings, trial.policy
        request = trial.request
        self._asked = {
            "format": "agentfly.trial/1",
            "recipe": str(request.recipe),
            "overrides": list(request.overrides),
            "tasks": request.tasks,
            "samples": request.samples,
        }
        write_text(folder / MARKER, json.dumps(self._asked, indent=2) + "\n")
        settings = public_settings(trial.settings.model_dump(mode="json"))
        names = {"model": trial.policy.label, "data": trial.settings.data.train, "split": trial.settings.data.split}
        self._run = RunFolder(folder, {**names, "agentfly": settings})
        named = trial.settings.reward_function or trial.settings.evaluator
        self.label = named if isinstance(named, str) else str(named.get("evaluator") or named.get("name") or "reward")

    async def append(self, tried: TriedChain) -> None:
        """Write a chain; when this returns, it and its images are on disk."""
        name = tried.task.id if not tried.sample else f"{tried.task.id}#{tried.sample + 1}"
        if tried.chain is None:
            trajectory = Trajectory(f"{name}-{tried.sample}", name, [], stop_reason=StopReason.ERROR)
            trajectory.error = None if tried.lost is None else tried.lost.message
        else:
            trajectory = tried.chain.trajectory
            made = {handle for record in trajectory.tool_records for handle in record.images}
            self._run.images.copy_from(tried.chain.store, {*trajectory.handles, *made})
        try:
            task = TaskFacts.keep(tried.task, self._run.images)
        except ImageError:
            task = TaskFacts.without_images(tried.task)
        score: Score | NotScored = NotScored(tried.lost.message if tried.lost else "no score")
        if tried.lost is None and trajectory.score is not None:
            score = Score(trajectory.score, "", trajectory.aspects)
        # Chains of one task are told apart as in a replay.
        await self._run.append(TaskRecord(replace(task, id=name), trajectory, {self.label: score}))

    def finish(self, result: TrialResult) -> None:
        """Write metrics, tables and the gallery."""
        found = {
            "policy": self._policy.label,
            "metrics": dict(result.metrics),
            "breaches": [asdict(breach) for breach in result.breaches],
            "lost": [asdict(lost) for lost in result.lost],
            "unfit": result.unfit,
            "seconds": round(result.seconds, 1),
        }
        write_text(self.folder / MARKER, json.dumps({**self._asked, **found}, indent=2, ensure_ascii=False) + "\n")
        if records := list(self._run.finished.values()):
            about: About = {
                "agent": self._settings.spec().label,
                "model": self._policy.label,
                "data": self._settings.data.train,
                "split": self._settings.data.split,
                "wall_clock_seconds": round(result.seconds, 1),
            }
            write_pages(self.folder, records, [self.label], self._run.images, about, _SHOWN)

    def close(self) -> None:
        """Let go of the folder."""
        self._run.close()
