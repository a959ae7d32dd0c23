"""A phase of a long run in a process of its own: its memory is freed, its noise goes to a log, and it cannot hang.

The function runs in a fresh interpreter (spawn) in its own process group; progress comes back through a pipe.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from agentfly.agents.llm_backends.vllm_defaults import CPU_ENVIRONMENT, CPU_IN_PROCESS_ENVIRONMENT
from agentfly.errors import TrainingError

OnProgress = Callable[[str, int, int], None]  # part of the phase, done, total

ENVIRONMENT = {
    **CPU_ENVIRONMENT,
    **CPU_IN_PROCESS_ENVIRONMENT,
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # More threads than cores cost more than they give.
    "OMP_NUM_THREADS": str(os.cpu_count() or 1),
}


# Share of a phase's time after which it writes its stacks to the log: it is late, and may be killed soon.
_LAST_WORDS = 0.9


def run_phase(
    function: Callable[..., object],
    arguments: dict[str, Any],
    *,
    log: Path,
    timeout: float,
    on_progress: OnProgress | None = None,
) -> float:
    """Run `function(**arguments, on_progress=...)` in a child process and wait for it.

    Args:
        function: importable by name; takes `on_progress`. What it returns is dropped.
        arguments: picklable.
        log: file that gets everything the child prints.
        timeout: seconds until the child is killed.
        on_progress: called here with what the child tells.

    Returns:
        Seconds it took.

    Raises:
        TrainingError: it failed, died or took too long; the message has the cause and names the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    started = time.monotonic()
    late = started + _LAST_WORDS * timeout
    child = context.Process(target=_child, args=(function, arguments, str(log), late, sender), daemon=False)
    child.start()
    sender.close()
    try:
        _follow(receiver, function.__name__, log, timeout, on_progress)
        child.join(timeout=30)
    finally:
        _end(child.pid)
        child.join(timeout=10)
    return time.monotonic() - started


def _follow(receiver: Connection, name: str, log: Path, timeout: float, on_progress: OnProgress | None) -> None:
    deadline = time.monotonic() + timeout
    while True:
        if not receiver.poll(max(0.0, deadline - time.monotonic())):
            raise TrainingError(
                f"{name} did not finish within {timeout:g} s and was stopped; where it stood is at the end of {log}"
            )
        try:
            kind, *rest = receiver.recv()
        except EOFError:
            raise TrainingError(f"{name} died without a word (out of memory?); see {log}") from None
        if kind == "done":
            return
        if kind == "failed":
            raise TrainingError(f"{name} failed: {rest[0]}; see {log}")
        if on_progress is not None:
            on_progress(*rest)


def _child(
    function: Callable[..., object], arguments: dict[str, Any], log: str, late: float, sender: Connection
) -> None:
    os.setsid()
    os.environ.update(ENVIRONMENT)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    logging.basicConfig(level=logging.INFO)
    # Both processes read the same clock.
    faulthandler.dump_traceback_later(max(0.01, late - time.monotonic()))
    try:
        function(**arguments, on_progress=lambda *told: sender.send(("progress", *told)))
        sender.send(("done",))
    except Exception as fault:  # the boundary of the process: the parent raises it again in its own words
        traceback.print_exc()
        sender.send(("failed", f"{type(fault).__name__}: {fault}"))


def _end(pid: int | None) -> None:
    """End whatever the child left: it leads a process group of its own."""
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
