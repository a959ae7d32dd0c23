"""Run the heavy parts of a run in a separate process, and show their progress: memory is freed, hangs end it.

Functions run in a fresh interpreter (spawn) in its own process group. Progress comes back through a pipe. The limit is
for the time without progress and not for the total time, so that a slow machine is not taken for a hang.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from agentfly.agents.llm_backends.vllm_defaults import CPU_ENVIRONMENT, CPU_IN_PROCESS_ENVIRONMENT
from agentfly.errors import TrainingError, printable

_LEAST_SECONDS = 2.0  # between two lines of a part, so that a short part has few lines


@dataclass
class _Part:
    bar: TaskID
    begun: float
    reported: float
    tenths: int = 0


class ProgressDisplay:
    """Display of the progress of the parts of a run, for a `with` block. Safe to use from several threads.

    Args:
        console: a terminal gets bars; anything else gets lines.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            TextColumn("{task.description:<32}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self._parts: dict[str, _Part] = {}

    def __enter__(self) -> ProgressDisplay:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, name: str, done: int, total: int, *, note: str = "") -> None:
        """Show that `done` of `total` pieces of a part are finished.

        Args:
            name: of the part.
            done: pieces that are finished; the first call, with 0, starts the part's clock.
            total: pieces of the part.
            note: shown beside them, such as a figure of the last piece.
        """
        if (part := self._parts.get(name)) is None:
            now = time.monotonic()
            part = self._parts[name] = _Part(self._bars.add_task(name, total=total, note=note), now, now)
            self._line(f"{name}: begins")
        self._bars.update(part.bar, completed=done, total=total, note=note)
        tenths, now = 10 * done // max(1, total), time.monotonic()
        if tenths > part.tenths and (now - part.reported > _LEAST_SECONDS or done == total):
            part.tenths, part.reported = tenths, now
            elapsed = now - part.begun
            left = f", about {elapsed / done * (total - done):.0f} s left" if done < total else ""
            self._line(f"{name}: {done} of {total}, {elapsed:.0f} s{left}{f'; {note}' if note else ''}")

    def say(self, text: str) -> None:
        """Print a line, on a terminal above the bars."""
        self._bars.console.print(Text(printable(text)))

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self.say(text)


OnProgress = Callable[[str, int, int], None]  # part of the phase, done, total

ENVIRONMENT = {
    **CPU_ENVIRONMENT,
    **CPU_IN_PROCESS_ENVIRONMENT,
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # More threads than cores cost more than they give.
    "OMP_NUM_THREADS": str(os.cpu_count() or 1),
    # A waiting thread gives its core away: other parts of the run, or other programs, may need it.
    "OMP_WAIT_POLICY": "PASSIVE",
}

PATIENCE = 900.0  # seconds without progress after which a phase counts as hung
# Share of the patience after which a phase writes its stacks to the log, before it is killed.
_DUMP_SHARE = 0.9


class PhaseProcess:
    """A child process that runs functions, one after another, and keeps its imports between them.

    Use it in a `with` block, which ends the process and everything that it has started.
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
        arguments: Mapping[str, object],
        *,
        log: Path,
        patience: float = PATIENCE,
        on_progress: OnProgress | None = None,
    ) -> float:
        """Run `function(**arguments, on_progress=...)` in the child and wait for it.

        Args:
            function: importable by name; takes `on_progress`. Its result is dropped.
            arguments: picklable.
            log: file that gets everything the child prints from now on.
            patience: seconds without progress after which the function counts as hung.
            on_progress: called in this process with the progress that the child reports.

        Returns:
            Seconds that the function took.

        Raises:
            TrainingError: it failed, died or stopped making progress; the message has the cause and names the log.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        started, self._busy = time.monotonic(), True
        with contextlib.suppress(OSError):  # `_wait` reports a child that has ended
            self._pipe.send((str(log), patience))
            self._pipe.send((function, dict(arguments)))
        self._wait(function.__name__, log, patience, on_progress)
        return time.monotonic() - started

    def _wait(self, name: str, log: Path, patience: float, on_progress: OnProgress | None) -> None:
        while True:
            try:
                kind, *rest = self._pipe.recv() if self._pipe.poll(patience) else ("hangs",)
            except (EOFError, OSError):
                raise TrainingError(
                    f"{name} died without a message: out of memory? Close other programs and run the same command "
                    f"again, which continues from the finished parts; see {log}"
                ) from None
            if kind == "hangs":
                self.close()
                raise TrainingError(
                    f"{name} made no progress for {patience:g} s and was stopped; its stacks are at the end of {log}. "
                    "Run the same command again to continue from the finished parts"
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
            # It ends by itself and clears up: if it were killed, Python would warn about its semaphores.
            self._pipe.close()
            self._child.join(timeout=30)
        if self._child.pid is not None:
            # The child leads a process group of its own, except at its very start, when it has no children.
            for end in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError):
                    end(self._child.pid, signal.SIGKILL)
        self._child.join(timeout=10)


def run_phase(
    function: Callable[..., object],
    arguments: Mapping[str, object],
    *,
    log: Path,
    patience: float = PATIENCE,
    on_progress: OnProgress | None = None,
) -> float:
    """Run one function in a process of its own; see `PhaseProcess.run`."""
    with PhaseProcess() as process:
        return process.run(function, arguments, log=log, patience=patience, on_progress=on_progress)


def _serve(pipe: Connection) -> None:
    """Run the functions that come through the pipe until it closes; the main function of the child."""
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
    with _dump_on_hang(_DUMP_SHARE * patience) as note_progress:

        def report(part: str, done: int, total: int) -> None:
            note_progress()
            pipe.send(("progress", part, done, total))

        try:
            function(**arguments, on_progress=report)
            pipe.send(("done",))
        except Exception as fault:  # the boundary of the process: the parent raises a `TrainingError` with it
            traceback.print_exc()
            pipe.send(("failed", f"{type(fault).__name__}: {fault}"))


@contextmanager
def _dump_on_hang(seconds: float) -> Iterator[Callable[[], None]]:
    """Write all stacks to the log after `seconds` without progress; yields a function that notes progress."""
    armed = 0.0

    def note_progress() -> None:
        nonlocal armed
        # Arming starts a thread, so it is not done at each of thousands of steps.
        if (now := time.monotonic()) - armed > min(1.0, seconds / 10):
            faulthandler.dump_traceback_later(seconds)
            armed = now

    note_progress()
    try:
        yield note_progress
    finally:
        faulthandler.cancel_dump_traceback_later()
