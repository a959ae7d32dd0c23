"""Python programs in processes of their own that do not import agentfly anew: most of a short program is that.

A server imports it once for a session of pytest and is forked for each program. What is about importing, such as which
modules a command loads, is tested with `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from types import ModuleType
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
if len(tempfile.gettempdir()) > 60:
    # The path of the server's socket may have 107 characters.
    _SHORT = tempfile.TemporaryDirectory(dir="/tmp", prefix="agentfly-tests-")
    multiprocessing.current_process()._config["tempdir"] = _SHORT.name  # type: ignore[attr-defined]
_CONTEXT.set_forkserver_preload(["agentfly.agents", "agentfly.cli", "openai", "pytest"])


@dataclass(frozen=True)
class Program:
    """A program that runs.

    Attributes:
        stdout: the file that it writes to.
        stderr: likewise.
    """

    words: tuple[str, ...]
    stdout: Path
    stderr: Path
    _process: Any

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def wait(self, timeout: float) -> int:
        """Return the exit code.

        Raises:
            TimeoutExpired: it still runs.
        """
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise TimeoutExpired(self.words, timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


@contextmanager
def started(
    *words: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    start_new_session: bool = False,
) -> Iterator[Program]:
    """Start Python as `python *words` would, with a script, `-c code` or `-m module`; kill it at the end if it runs.

    Args:
        words: the command line after `python`.
        cwd: where it runs; here by default.
        env: its whole environment; this one by default.
        start_new_session: give it a process group of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder) / "stdout", Path(folder) / "stderr"
        stdout.touch()
        stderr.touch()
        where, environment = str(cwd or Path.cwd()), dict(os.environ if env is None else env)
        process = _CONTEXT.Process(target=_run, args=(words, where, environment, stdout, stderr, start_new_session))
        process.start()
        program = Program(words, stdout, stderr, process)
        try:
            yield program
        finally:
            program.send_signal(signal.SIGKILL)
            process.join()


def run(
    *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 60
) -> CompletedProcess[str]:
    """Run Python to its end, as `subprocess.run` does with text and captured output.

    Raises:
        TimeoutExpired: it took longer; it was killed.
    """
    with started(*words, cwd=cwd, env=env) as program:
        code = program.wait(timeout)
        return CompletedProcess(words, code, program.stdout.read_text(), program.stderr.read_text())


def _run(
    words: tuple[str, ...], cwd: str, env: dict[str, str], stdout: Path, stderr: Path, start_new_session: bool
) -> None:
    """Become the program, in the process that was forked for it."""
    if start_new_session:
        os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for stream, file in ((1, stdout), (2, stderr)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), stream)
    sys.argv = [*words] if words[0] not in ("-c", "-m") else [words[0], *words[2:]]
    sys.path.insert(0, cwd)
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    else:
        runpy.run_path(words[0], run_name="__main__")
