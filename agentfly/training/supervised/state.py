"""Keep the files of a training run, from which it can be resumed after it was killed.

`sft.json` describes the run, `metrics.jsonl` has one line per step, and `checkpoint.pt` has the state that a resumed
run needs. A checkpoint is replaced atomically, so that there is always a complete one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypeAlias, TypedDict

from agentfly.errors import ConfigError
from agentfly.files import write_text, written_whole
from agentfly.training.supervised.data.samples import DataSummary
from agentfly.training.supervised.loop import Loop

RECORD = "sft.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.pt"


class RecordedConfig(TypedDict):
    """The configuration in `sft.json`, as far as it is read again; see `SupervisedConfig`."""

    model: str
    lora: dict[str, object]
    training: dict[str, object]


class RunRecord(TypedDict):
    """Content of the `sft.json` of `agentfly sft`, as far as it is read again.

    Attributes:
        config: of the run.
        data: see `Prepared.summary`.
        steps: optimiser steps of the whole run.
        result: losses; there when the run has ended.
        versions: of the packages; there when the run has ended.
    """

    config: RecordedConfig
    data: DataSummary
    steps: int
    result: NotRequired[dict[str, float]]
    versions: NotRequired[dict[str, str]]


# A line of `metrics.jsonl`: the figures of `Step`, and `held_out_loss` at some steps. Step 0 has that loss alone.
MetricsLine: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class RunFolder:
    """Folder of a run."""

    path: Path

    def check_free(self, *, resume: bool) -> None:
        """Check that no run would be overwritten.

        Raises:
            ConfigError: there is a run, and it is not to be resumed.
        """
        if (self.path / CHECKPOINT).is_file() and not resume:
            raise ConfigError(f"{self.path} holds a run: resume it with --resume, or give another out=")

    def open(self, identity: Mapping[str, object], *, resume: bool) -> None:
        """Start a run in the folder, or check that the run there can be resumed.

        Args:
            identity: settings and content of the data, as plain JSON; a resumed run must have the same.
            resume: resume the run in the folder, if there is one.

        Raises:
            ConfigError: there is a run that is not to be resumed, or another one.
        """
        self.check_free(resume=resume)
        if not (self.path / CHECKPOINT).is_file():
            # A run without a checkpoint has nothing to resume from.
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / RECORD).unlink(missing_ok=True)
            (self.path / METRICS).unlink(missing_ok=True)
            self.note(identity)
            return
        if changed := _changed(self.record(), json.loads(json.dumps(identity))):
            raise ConfigError(
                f"{self.path} cannot be resumed: {', '.join(changed)} differ from the run there; give the same, or "
                "another out="
            )

    def record(self) -> dict[str, object]:
        """Return the content of `sft.json`; empty when there is none."""
        path = self.path / RECORD
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def note(self, more: Mapping[str, object]) -> None:
        """Add keys to `sft.json`."""
        write_text(self.path / RECORD, json.dumps(self.record() | dict(more), indent=2) + "\n")

    def save(self, loop: Loop, step: int) -> None:
        """Write a checkpoint.

        Args:
            loop: after the step.
            step: number of the last step that is done.
        """
        import torch

        trained = {name: p.detach() for name, p in loop.model.named_parameters() if p.requires_grad}
        state = {
            "step": step,
            "trained": trained,
            "optimisers": [optimiser.state_dict() for optimiser, _ in loop.optimisers],
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if loop.collate.device == "cuda" else None,
        }
        with written_whole(self.path / CHECKPOINT) as partial:
            torch.save(state, partial)

    def restore(self, loop: Loop) -> int:
        """Load the checkpoint into a loop, drop the metrics of later steps, and return the number of steps done."""
        import torch

        path = self.path / CHECKPOINT
        step = 0
        if path.is_file():
            state = torch.load(path, map_location=loop.collate.device, weights_only=True)
            loop.model.load_state_dict(state["trained"], strict=False)
            for (optimiser, _), saved in zip(loop.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            torch.set_rng_state(state["random"].cpu())
            if state["random_cuda"] is not None:
                torch.cuda.set_rng_state(state["random_cuda"].cpu())
            step = int(state["step"])
        kept = [line for line in self.metrics() if line["step"] <= step]
        write_text(self.path / METRICS, "".join(json.dumps(line) + "\n" for line in kept))
        return step

    def log(self, line: Mapping[str, object]) -> None:
        """Append a line to the metrics."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self) -> list[MetricsLine]:
        """Return all lines of the metrics, without a torn last one."""
        path = self.path / METRICS
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
        return [json.loads(line) for line in lines[:-1]]


def _changed(before: Mapping[str, object], now: Mapping[str, object], prefix: str = "") -> list[str]:
    """Return the dotted names of the values in `now` that differ."""
    names: list[str] = []
    for key, value in now.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            names += _changed(old, value, f"{prefix}{key}.")
        elif old != value:
            names.append(f"{prefix}{key}")
    return names
