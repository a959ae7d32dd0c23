"""Find where a resumed run continues, and cut its logs there.

verl repeats every step after its newest checkpoint. The lines that such a step had already written to `metrics.jsonl`
and `trajectories.jsonl` are moved aside before the run continues. Otherwise these steps would be in the logs twice.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentfly.errors import ConfigError
from agentfly.files import held, read_mapping
from agentfly.training.launch.checkpoints import newest_checkpoint, step_of
from agentfly.training.recipe.settings import TrainSettings

logger = logging.getLogger(__name__)

TRACKER = "latest_checkpointed_iteration.txt"
# How the lines of both logs begin; parsing those of a long run as a whole would take minutes.
_HEAD = re.compile(rb'\{"step": (-?\d+)(, "validate": true)?')


# What a checkpoint belongs to. Steps, rates and limits may be others when a run goes on.
_SAME = (
    "agentfly.model",
    "agentfly.template",
    "agentfly.data.train",
    "agentfly.data.split",
    "agentfly.data.limit",
    "agentfly.data.options",
    "algorithm.adv_estimator",
    "actor_rollout_ref.model.lora_rank",
    "data.train_batch_size",
)


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Be the only one that works in the folder of a run, which is made where it is missing.

    Raises:
        ConfigError: another process does.
    """
    (out / "logs").mkdir(parents=True, exist_ok=True)
    with held(out / "logs" / "lock", f"agentfly.out={out}"):
        yield


def check_same_run(config: Any, settings: TrainSettings, file: Path) -> None:
    """Check that checkpoints which a run would go on from are its own.

    Args:
        config: of the run that is to start.
        settings: its node `agentfly`.
        file: the configuration that the folder's run was started with, if there was one.

    Raises:
        ConfigError: they are of a run with another model, other data, or another algorithm.
    """
    from omegaconf import OmegaConf

    goes_on = config.trainer.resume_mode == "auto" and newest_checkpoint(settings.checkpoint_dir) is not None
    if not goes_on or not file.is_file():
        return
    before, now = OmegaConf.create(read_mapping(file, "configuration of the earlier run", "agentfly: …")), config
    for key in _SAME:
        was, wanted = (_comparable(OmegaConf.select(source, key)) for source in (before, now))
        if was != wanted:
            raise ConfigError(
                f"agentfly.out={settings.out} holds a run with {key}={was}, not {wanted}: give another agentfly.out, "
                "or trainer.resume_mode=disable to start afresh"
            )


def _comparable(value: Any) -> Any:
    """A plain value; what is empty is what an older file lacks."""
    from omegaconf import OmegaConf

    return (OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value) or None


def leave_checkpoints(checkpoint_dir: Path) -> None:
    """Have nobody go on from the checkpoints that are there; they stay, and so does the note of the newest, aside."""
    tracker = checkpoint_dir / TRACKER
    if tracker.is_file():
        tracker.rename(tracker.with_suffix(".before.txt"))


def resume_checkpoint(checkpoint_dir: Path, named: Path | None = None) -> Path | None:
    """The checkpoint from which verl goes on; None where it starts anew.

    Args:
        checkpoint_dir: of the run.
        named: the one that `trainer.resume_from_path` names.
    """
    if named is not None:
        return named
    _mend_tracker(checkpoint_dir)
    return newest_checkpoint(checkpoint_dir)


def cut_back(log: Path, step: int, aside: Path, *, revalidates: bool = False) -> int:
    """Move the lines of later steps from a JSONL log to another file, and a last line that was not finished.

    The log is replaced as a whole or not at all; without such lines it is not touched.

    Args:
        log: its lines begin with `{"step": n`; others are left where they are.
        step: the last one to keep.
        aside: where the others go.
        revalidates: the resumed run begins with the validation of `step`, whose lines go too.

    Returns:
        How many lines were moved.
    """
    if not log.is_file():
        return 0
    with log.open("rb") as lines:
        moved = [number for number, line in enumerate(lines) if _is_later(line, step, revalidates)]
    if not moved:
        return 0
    gone, partial = set(moved), log.with_name(f"{log.name}.partial")
    with log.open("rb") as lines, partial.open("wb") as kept, aside.open("ab") as other:
        for number, line in enumerate(lines):
            (other if number in gone else kept).write(line)
    os.replace(partial, log)
    logger.info("%d lines of steps after %d, which are repeated, were moved from %s to %s", len(gone), step, log, aside)
    return len(gone)


def _is_later(line: bytes, step: int, revalidates: bool) -> bool:
    head = _HEAD.match(line)
    if not line.endswith(b"\n"):
        return True
    if head is None:
        return False
    number, validation = int(head[1]), head[2] is not None
    return number > step or (number == step and validation and revalidates)


def _mend_tracker(checkpoint_dir: Path) -> None:
    """Name the newest whole checkpoint where a kill, or a full disk, left verl's note of it empty.

    verl empties the file and then writes it (trainer_base.py, `_save_checkpoint`), and does not start with an empty
    one. The checkpoint is whole by then: `data.pt` is the last of it, so the one written last is the newest.
    """
    tracker = checkpoint_dir / TRACKER
    if not tracker.is_file() or tracker.read_text().strip().isdigit():
        return
    whole = sorted(checkpoint_dir.glob("global_step_*/data.pt"), key=lambda path: path.stat().st_mtime)
    if not whole:
        tracker.unlink()
        return
    step = step_of(whole[-1].parent)
    logger.warning("%s was not written to its end; the newest checkpoint is that of step %d", tracker, step)
    tracker.write_text(str(step))
