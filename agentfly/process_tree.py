"""Find and end all processes of one run and remove what they leave behind, without touching anything else.

A run is a tree of about twenty processes: verl's driver, Ray's daemons and workers, the rollout engine. Ray's processes
outlive a killed driver, so parentage is not enough. All of them inherit a marker in their environment and, on Linux,
the session of the driver. A process with either belongs to the run.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psutil import Process

logger = logging.getLogger(__name__)

MARKER = "AGENTFLY_RUN_ID"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
SHARED_MEMORY = Path("/dev/shm")
# Inode and path of a mapping, proc_pid_maps(5).
_MAPPING = re.compile(rb"^\S+ \S+ \S+ \S+ (\d+) +/dev/shm/", re.MULTILINE)


def end_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the parent process dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class ProcessFamily:
    """All processes of a run, except this one.

    Args:
        run_id: value of the environment variable `MARKER` in each of them.
        session: session id of the run's first process, which must be its session leader.
    """

    def __init__(self, run_id: str, session: int | None = None) -> None:
        self._run_id = run_id
        self._session = session
        self._born = time.time()
        self._segments: set[int] = set()

    def members(self) -> list[int]:
        """Return the ids of the living processes; zombies, which only wait for their parent, do not count."""
        return [process.pid for process in self._processes()]

    def titles(self) -> dict[int, str]:
        """Return the titles of the living processes, the first words of their command lines, by process id.

        A fork has its parent's title until it sets its own, and may end at any time: it is left out.
        """
        import psutil

        titles: dict[int, str] = {}
        parents: dict[int, int] = {}
        for process in self._processes():
            try:
                parents[process.pid], words = process.ppid(), process.cmdline()
            except psutil.Error:
                continue
            if words and words[0]:
                titles[process.pid] = words[0]
        # Ray adds the method that an actor runs after a dot, and the parent may run another one by now.
        names = {pid: title.partition(".")[0] for pid, title in titles.items()}
        return {pid: title for pid, title in titles.items() if names.get(parents[pid]) != names[pid]}

    def note_shared_memory(self) -> None:
        """Remember the shared memory segments that members map or hold open, to be removed at the end.

        By inode: glibc makes a semaphore under one name and publishes it under another, and a process shows the first.
        """
        for pid in self.members():
            root = Path("/proc") / str(pid)  # psutil has no inodes
            with contextlib.suppress(OSError):  # it ended while it was read; its segments are those seen before
                self._segments |= {int(inode) for inode in _MAPPING.findall((root / "maps").read_bytes())}
                for descriptor in (root / "fd").iterdir():
                    if os.readlink(descriptor).startswith(f"{SHARED_MEMORY}/"):
                        self._segments.add(descriptor.stat().st_ino)

    def end(self, patience: float = 15.0) -> None:
        """Kill every member, also those that a dying one starts, and remove their shared memory.

        Args:
            patience: seconds to wait until the kernel has removed them all.
        """
        import psutil

        self.note_shared_memory()
        deadline = time.monotonic() + patience
        while (members := list(self._processes())) and time.monotonic() < deadline:
            for process in members:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
                except psutil.AccessDenied as error:
                    logger.warning("cannot end process %d of the run: %s", process.pid, error)
            time.sleep(0.05)
        if members:
            logger.warning("processes %s of the run did not end", [process.pid for process in members])
        for path in SHARED_MEMORY.iterdir():
            try:
                status = path.stat()
                # A segment from before the run, which a member only attached to, belongs to another program.
                if status.st_ino in self._segments and status.st_ctime >= self._born - 1:
                    path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                logger.warning("cannot remove the shared memory segment %s: %s", path, error)

    def _processes(self) -> Iterator[Process]:
        """Yield the living members."""
        import psutil  # not at the top: others need only the marker, and the `verl` extra alone brings psutil

        for process in psutil.process_iter():
            try:
                if process.pid == os.getpid() or process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                    continue
                marked = process.environ().get(MARKER) == self._run_id
                if marked or os.getsid(process.pid) == self._session:
                    yield process
            except (psutil.Error, OSError):
                continue  # it ended, or belongs to another user
