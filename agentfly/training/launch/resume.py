"""Find where a resumed run continues, and cut its logs there.

verl repeats every step after its newest checkpoint. The lines that such a step has already written to `metrics.jsonl`
and `trajectories.jsonl` are moved aside before the run continues. Otherwise these steps would be in the logs twice.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agentfly.errors import ConfigError
from agentfly.files import held, read_mapping, written_whole
from agentfly.training.launch.checkpoints import TRACKER, newest_checkpoint, step_of
from agentfly.training.recipe.settings import TrainSettings

if TYPE_CHECKING:
    from omegaconf import DictConfig

logger = logging.getLogger(__name__)

# The beginning of a line of either log (`TrajectoryLine.to_json`, the same of version 0.1, and verl's metrics): parsing
# the whole lines of a long run would take minutes.
_HEAD = re.compile(rb'\{(?:"format": "[^"]*", )?"step": (-?\d+)(, "validate": true)?')
# A rank's part of the weights (verl/utils/checkpoint/fsdp_checkpoint_manager.py:316).
_SHARD = re.compile(r"model_world_size_(\d+)_rank_\d+\.pt")
# Settings that a run and its checkpoints must share. Steps, rates and limits may change when a run is resumed.
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
    "trainer.v1.trainer_mode",  # each reads the data in portions of its own, and only some keep chains that go on
)


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Lock the folder of a run for this process, and make it where it is missing.

    Raises:
        ConfigError: another process has locked it.
    """
    (out / "logs").mkdir(parents=True, exist_ok=True)
    with held(out / "logs" / "lock", f"agentfly.out={out}"):
        yield


def check_same_run(config: DictConfig, settings: TrainSettings, file: Path) -> None:
    """Check that the checkpoints which a run would resume from are its own.

    Args:
        config: of the run that is to start.
        settings: its node `agentfly`.
        file: the configuration of the folder's earlier run, if there was one.

    Raises:
        ConfigError: they belong to a run with another model, other data, another algorithm, or another number of
            accelerators.
    """
    from omegaconf import OmegaConf

    newest = newest_checkpoint(settings.checkpoint_dir) if config.trainer.resume_mode == "auto" else None
    if newest is None or not file.is_file():
        return
    _check_ranks(newest, config.trainer.n_gpus_per_node * config.trainer.nnodes)

    def value_of(source: DictConfig, key: str) -> object:
        value = OmegaConf.select(source, key)
        # An empty value counts as none: an older file lacks the key.
        return (OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value) or None

    before = OmegaConf.create(read_mapping(file, "configuration of the earlier run", "agentfly: …"))
    for key in _SAME:
        was, wanted = value_of(before, key), value_of(config, key)
        if was != wanted:
            raise ConfigError(
                f"agentfly.out={settings.out} holds a run with {key}={was}, not {wanted}: give another agentfly.out, "
                "or trainer.resume_mode=disable to start afresh"
            )


def _check_ranks(checkpoint: Path, ranks: int) -> None:
    """Raise for another number of ranks than has written a checkpoint: verl reads each rank's own files alone."""
    wrote = {int(found[1]) for path in (checkpoint / "actor").glob("*.pt") if (found := _SHARD.match(path.name))}
    if wrote and ranks not in wrote:
        raise ConfigError(
            f"{checkpoint} was written by {min(wrote)} accelerators, and verl reads it with as many alone, not with "
            f"{ranks}: set trainer.nnodes and trainer.n_gpus_per_node so, or export its weights (agentfly export) and "
            "train them in another folder"
        )


def leave_checkpoints(checkpoint_dir: Path) -> None:
    """Disable resuming: rename verl's tracker file and keep the checkpoint folders."""
    tracker = checkpoint_dir / TRACKER
    if tracker.is_file():
        tracker.rename(tracker.with_suffix(".before.txt"))


def resume_checkpoint(checkpoint_dir: Path, named: Path | None = None) -> Path | None:
    """Return the checkpoint from which verl resumes; None where it starts anew.

    Args:
        checkpoint_dir: of the run.
        named: the one that `trainer.resume_from_path` names.
    """
    if named is not None:
        return named
    _repair_tracker(checkpoint_dir)
    return newest_checkpoint(checkpoint_dir)


def cut_back(log: Path, step: int, aside: Path, *, revalidates: bool = False) -> int:
    """Move the lines of later steps, and an unfinished last line, from a JSONL log to another file.

    The log is replaced as a whole or not at all. Without such lines it is not touched.

    Args:
        log: its lines begin with their step; other lines stay.
        step: the last one to keep.
        aside: file that the moved lines are appended to.
        revalidates: the resumed run begins with the validation of `step`, whose lines are moved too.

    Returns:
        The number of lines that were moved.
    """

    def is_later(line: bytes) -> bool:
        head = _HEAD.match(line)
        if head is None or not line.endswith(b"\n"):
            return not line.endswith(b"\n")
        number, validation = int(head[1]), head[2] is not None
        return number > step or (number == step and validation and revalidates)

    if not log.is_file():
        return 0
    with log.open("rb") as lines:
        gone = {number for number, line in enumerate(lines) if is_later(line)}
    if not gone:
        return 0
    with written_whole(log) as partial, log.open("rb") as lines, partial.open("wb") as kept, aside.open("ab") as other:
        for number, line in enumerate(lines):
            (other if number in gone else kept).write(line)
    logger.info("%d lines of steps after %d, which are repeated, were moved from %s to %s", len(gone), step, log, aside)
    return len(gone)


def _repair_tracker(checkpoint_dir: Path) -> None:
    """Write the newest complete checkpoint into verl's tracker file where a kill, or a full disk, left it empty.

    verl empties the file before it writes it (trainer_base.py, `_save_checkpoint`), and does not start with an empty
    one. The checkpoint is complete by then: `data.pt` is its last file, so the newest `data.pt` shows the newest one.
    """
    tracker = checkpoint_dir / TRACKER
    if not tracker.is_file() or tracker.read_text().strip().isdigit():
        return
    complete = sorted(checkpoint_dir.glob("global_step_*/data.pt"), key=lambda path: path.stat().st_mtime)
    if not complete:
        tracker.unlink()
        return
    step = step_of(complete[-1].parent)
    logger.warning("%s was not written to its end; the newest checkpoint is that of step %d", tracker, step)
    tracker.write_text(str(step))
