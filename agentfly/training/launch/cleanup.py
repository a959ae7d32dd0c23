"""Clears up after a launcher that was killed: `python -m agentfly.training.launch.cleanup RUN SESSION SCRATCH`.

The launcher holds the other end of this process's standard input. When it ends well it writes a word there; when it is
killed the pipe closes without one, and everything of the run is ended and removed here, Ray's daemons and shared
memory too.
"""

from __future__ import annotations

import select
import shutil
import subprocess
import sys
from pathlib import Path

from agentfly.training.launch.process_tree import ProcessFamily

WELL = b"well"
_LOOK_SECONDS = 5.0


def hire(run_id: str, session: int, scratch: Path) -> subprocess.Popen[bytes]:
    """Start a janitor for a run."""
    return subprocess.Popen(
        [sys.executable, "-m", "agentfly.training.launch.cleanup", run_id, str(session), str(scratch)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def dismiss(janitor: subprocess.Popen[bytes]) -> None:
    """Tell a janitor that there is nothing to do."""
    try:
        janitor.communicate(WELL, timeout=10)
    except (subprocess.TimeoutExpired, BrokenPipeError):
        janitor.kill()
        janitor.wait()


def main() -> None:
    """Wait for the launcher's word."""
    run_id, session, scratch = sys.argv[1:]
    family = ProcessFamily(run_id, session=int(session))
    # The launcher does this too, but takes what it knows with it.
    while not select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
        family.note_shared_memory()
    if sys.stdin.buffer.read() == WELL:
        return
    family.end()
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
