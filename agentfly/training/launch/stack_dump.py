"""Get the stacks of a running trainer: it writes them at a signal, and the launcher reads them.

A hang in verl has no message of its own. The function that it hangs in shows the part of the step.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import time
from pathlib import Path

FOLDER_VARIABLE = "AGENTFLY_STACKS"
_SIGNAL = signal.SIGUSR1
# Functions of verl's trainer (verl/trainer/ppo/v1/trainer_base.py, trainer_sync.py), the innermost first.
_PARTS = (
    ("update_weights", "weight synchronisation"),
    ("sleep_replicas", "putting the rollout engine to sleep"),
    ("_save_checkpoint", "writing the checkpoint"),
    ("_load_checkpoint", "reading the checkpoint"),
    ("_validate", "validation"),
    ("_update_actor", "the update of the policy"),
    ("_update_critic", "the update of the critic"),
    ("_compute_values", "the critic's values"),
    ("_compute_ref_log_prob", "the log-probs of the reference"),
    ("_compute_old_log_prob", "the log-probs of the policy"),
    ("sample", "the rollouts"),
    ("_setup", "the start of the workers"),
)


def dump_on_request() -> None:
    """Make this process write its stacks to a file of the run at SIGUSR1; do nothing outside of a run.

    A worker on another machine has no such folder, and nobody there who would ask.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder and Path(folder).is_dir():
        # faulthandler keeps the descriptor, not the object.
        file = os.open(Path(folder) / f"{os.getpid()}.stack", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        faulthandler.register(_SIGNAL, file=file, all_threads=True)


def part_in_progress(folder: Path, patience: float = 3.0) -> str | None:
    """Return the part of the step that the trainer is in, in words; None where its stacks do not show it.

    Args:
        folder: of the files that `dump_on_request` writes.
        patience: seconds to wait for the stacks.
    """
    for path in folder.glob("*.stack"):
        before = path.stat().st_size
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(int(path.stem), _SIGNAL)
        deadline = time.monotonic() + patience
        while path.stat().st_size == before and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.1)  # the rest of the threads
        if (part := named(path.read_text(errors="replace")[before:])) is not None:
            return part
    return None


def named(stacks: str) -> str | None:
    """Return the part of a step that stacks show, in words; None if they show none."""
    return next((words for function, words in _PARTS if f" in {function}\n" in stacks), None)
