"""Cleanup process of a run: `python -m agentfly.cleanup RUN SESSION SCRATCH`.

The launcher holds the other end of this process's standard input. After a normal end it writes a word there. If it is
killed, the pipe closes without that word. Then this process ends everything of the run, Ray's daemons included, and
removes its shared memory and temporary files.
"""

from __future__ import annotations

import select
import shutil
import subprocess
import sys
from pathlib import Path

from agentfly.process_tree import ProcessFamily

NORMAL_END = b"well"
_NOTE_SECONDS = 5.0


def start(run_id: str, session: int, scratch: Path) -> subprocess.Popen[bytes]:
    """Start the cleanup process of a run.

    Args:
        run_id: value of the environment variable `MARKER` in the run's processes.
        session: session id of the trainer.
        scratch: folder for temporary files, which goes with the run.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "agentfly.cleanup", run_id, str(session), str(scratch)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Report a normal end to the cleanup process, so that it exits without doing anything."""
    try:
        process.communicate(NORMAL_END, timeout=10)
    except (subprocess.TimeoutExpired, BrokenPipeError):
        process.kill()
        process.wait()


def main() -> None:
    """Wait for the launcher to exit; clean up unless it reported a normal end."""
    run_id, session, scratch = sys.argv[1:]
    family = ProcessFamily(run_id, session=int(session))
    # The launcher notes shared memory too, but its notes die with it.
    while not select.select([sys.stdin], [], [], _NOTE_SECONDS)[0]:
        family.note_shared_memory()
    if sys.stdin.buffer.read() == NORMAL_END:
        return
    family.end()
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
