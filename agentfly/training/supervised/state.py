"""The files of a run that is training, from which it can be resumed after it was killed.

`sft.json` describes the run, `metrics.jsonl` has one line per step, and `checkpoint.pt` has what a resumed run needs. A
checkpoint is replaced atomically, so that there is always a complete one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentfly.errors import ConfigError
from agentfly.files import write_text, written_whole
from agentfly.training.supervised.loop import Loop

RECORD = "sft.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run."""

    path: Path

    def check_free(self, *, resume: bool) -> None:
        """See that no run is overwritten.

        Raises:
            ConfigError: there is a run, and none was to be resumed.
        """
        if (self.path / CHECKPOINT).is_file() and not resume:
            raise ConfigError(f"{self.path} holds a run: go on with it by --resume, or give another out=")

    def open(self, identity: Mapping[str, Any], *, resume: bool) -> None:
        """Claim the folder for a run.

        Args:
            identity: what the run is: settings and content of its data, plain JSON.
            resume: go on with what is there, if anything is.

        Raises:
            ConfigError: there is a run and none was to be resumed, or it is another one.
        """
        self.check_free(resume=resume)
        if not (self.path / CHECKPOINT).is_file():
            # Nothing is lost with a run that never came to its first checkpoint.
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

    def record(self) -> dict[str, Any]:
        """What `sft.json` says; empty when there is none."""
        path = self.path / RECORD
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def note(self, more: Mapping[str, Any]) -> None:
        """Add to `sft.json`."""
        write_text(self.path / RECORD, json.dumps(self.record() | dict(more), indent=2) + "\n")

    def save(self, loop: Loop, step: int) -> None:
        """Write a checkpoint after a step."""
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
        """Load the checkpoint into a loop and forget the metrics of later steps; returns the steps that are done."""
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
        self._keep_metrics(step)
        return step

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line to the metrics."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of the metrics; a torn last line is passed over."""
        path = self.path / METRICS
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
        return [json.loads(line) for line in lines[:-1]]

    def _keep_metrics(self, step: int) -> None:
        kept = [line for line in self.metrics() if line["step"] <= step]
        write_text(self.path / METRICS, "".join(json.dumps(line) + "\n" for line in kept))


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of what is not the same."""
    names: list[str] = []
    for key, value in now.items():
        old = before.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            names += _changed(old, value, f"{prefix}{key}.")
        elif old != value:
            names.append(f"{prefix}{key}")
    return names
