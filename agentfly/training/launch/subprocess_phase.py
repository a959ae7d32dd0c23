"""Run the heavy parts of a run in a separate process: its memory is freed, its output goes to a log, it cannot hang.

Functions run in a fresh interpreter (spawn) in its own process group; progress comes back through a pipe. The limit is
for the time without progress and not for the total time: a slow machine is no fault.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    # A thread that waits gives its core away: other parts of the run, or other programs, may need it.
    "OMP_WAIT_POLICY": "PASSIVE",
}

PATIENCE = 900.0  # seconds without progress after which a phase counts as hung
# Share of the patience after which a phase writes its stacks to the log: it may be killed soon.
_LAST_WORDS = 0.9


class PhaseProcess:
    """A child process that runs functions, one after another; what it has imported stays imported.

    Use it in a `with` block, which ends the process and everything it has started.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._child = context.Process(target=_serve, args=(theirs,), daemon=False)
        self._child.start()
        self._busy = False
        theirs.close()

    def __enter__(self) -> PhaseProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self,
        function: Callable[..., object],
        arguments: dict[str, Any],
        *,
        log: Path,
        patience: float = PATIENCE,
        on_progress: OnProgress | None = None,
    ) -> float:
        """Run `function(**arguments, on_progress=...)` in the child and wait for it.

        Args:
            function: importable by name; takes `on_progress`. What it returns is dropped.
            arguments: picklable.
            log: file that gets everything the child prints from now on.
            patience: seconds without progress after which the function counts as hung.
            on_progress: called here with what the child reports.

        Returns:
            Seconds it took.

        Raises:
            TrainingError: it failed, died or stopped making progress; the message has the cause and names the log.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        started, self._busy = time.monotonic(), True
        with contextlib.suppress(OSError):  # a child that died, or was ended, says so below
            self._pipe.send((str(log), patience))
            self._pipe.send((function, arguments))
        self._follow(function.__name__, log, patience, on_progress)
        return time.monotonic() - started

    def _follow(self, name: str, log: Path, patience: float, on_progress: OnProgress | None) -> None:
        while True:
            try:
                kind, *rest = self._pipe.recv() if self._pipe.poll(patience) else ("hangs",)
            except (EOFError, OSError):
                raise TrainingError(
                    f"{name} died without a word: out of memory? Close other programs and run the same command again, "
                    f"which goes on from what is finished; see {log}"
                ) from None
            if kind == "hangs":
                self.close()
                raise TrainingError(
                    f"{name} made no progress for {patience:g} s and was stopped; where it stood is at the end "
                    f"of {log}. The same command again goes on from what is finished"
                )
            if kind == "done":
                self._busy = False
                return
            if kind == "failed":
                self._busy = False
                raise TrainingError(f"{name} failed: {rest[0]}; see {log}")
            if on_progress is not None:
                on_progress(*rest)

    def close(self) -> None:
        """End the child and everything it has started; a thread that waits in `run` then gets a `TrainingError`."""
        if not self._busy:
            # It ends by itself and clears up: the semaphores of a killed one are told of on the terminal.
            self._pipe.close()
            self._child.join(timeout=30)
        if self._child.pid is not None:
            # It leads a process group of its own; before it does, it has started nothing.
            for end in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError):
                    end(self._child.pid, signal.SIGKILL)
        self._child.join(timeout=10)


def run_phase(
    function: Callable[..., object],
    arguments: dict[str, Any],
    *,
    log: Path,
    patience: float = PATIENCE,
    on_progress: OnProgress | None = None,
) -> float:
    """Run one function in a process of its own; see `PhaseProcess.run`."""
    with PhaseProcess() as process:
        return process.run(function, arguments, log=log, patience=patience, on_progress=on_progress)


def _serve(pipe: Connection) -> None:
    os.setsid()
    os.environ.update(ENVIRONMENT)
    logging.basicConfig(level=logging.INFO)
    with contextlib.suppress(EOFError):
        while True:
            _run_next(pipe)


def _run_next(pipe: Connection) -> None:
    log, patience = pipe.recv()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    function, arguments = pipe.recv()  # imports the module of the function, which may print
    with _last_words(_LAST_WORDS * patience) as moved:

        def tell(part: str, done: int, total: int) -> None:
            moved()
            pipe.send(("progress", part, done, total))

        try:
            function(**arguments, on_progress=tell)
            pipe.send(("done",))
        except Exception as fault:  # the boundary of the process: the parent raises it again in its own words
            traceback.print_exc()
            pipe.send(("failed", f"{type(fault).__name__}: {fault}"))


@contextmanager
def _last_words(seconds: float) -> Iterator[Callable[[], None]]:
    """Write all stacks to the log when nothing has moved for so long; the context is a function that says it moved."""
    armed = 0.0

    def moved() -> None:
        nonlocal armed
        # Arming starts a thread: not at every one of thousands of steps.
        if (now := time.monotonic()) - armed > min(1.0, seconds / 10):
            faulthandler.dump_traceback_later(seconds)
            armed = now

    moved()
    try:
        yield moved
    finally:
        faulthandler.cancel_dump_traceback_later()
