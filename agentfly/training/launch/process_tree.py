"""Find and end all processes of one run and remove what they leave behind, without touching anything else.

A run is a tree of about twenty processes (verl's driver, Ray's daemons and workers, the rollout engine). Ray's outlive
a killed driver, so parentage is not enough. All of them inherit a marker in their environment and, on Linux, the
session of the driver; a process with either is ours.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

MARKER = "AGENTFLY_RUN_ID"
SHARED_MEMORY = Path("/dev/shm")
_PROC = Path("/proc")
# Inode and path of a mapping, proc_pid_maps(5).
_MAPPING = re.compile(rb"^\S+ \S+ \S+ \S+ (\d+) +/dev/shm/", re.MULTILINE)


class ProcessFamily:
    """All processes of a run.

    Args:
        run_id: value of the environment variable `MARKER` in each of them.
        session: session id of the run's first process, which must be its session leader.
    """

    def __init__(self, run_id: str, session: int | None = None) -> None:
        self._marker = f"{MARKER}={run_id}".encode()
        self._session = session
        self._born = time.time()
        self._segments: set[int] = set()

    def members(self) -> list[int]:
        """Process ids of the living members; zombies, which only wait for their parent, do not count."""
        return [pid for pid in _process_ids() if self._owns(pid)]

    def titles(self) -> dict[int, str]:
        """What the living members call themselves, by process id.

        A fork has its parent's name until it becomes what it was made for, and may end at any time: it is left out.
        """
        titles = {pid: title for pid in self.members() if (title := _title(pid))}
        # Ray adds the method that an actor is in after a dot; the parent may have gone on since.
        names = {pid: title.partition(".")[0] for pid, title in titles.items()}
        return {pid: title for pid, title in titles.items() if names.get(_parent(pid)) != names[pid]}

    def note_shared_memory(self) -> None:
        """Remember the shared memory segments that members map or hold open, to be removed at the end.

        By inode: glibc makes a semaphore under one name and publishes it under another, and a process shows the first.
        """
        for pid in self.members():
            self._segments |= _segments_of(pid)

    def end(self, patience: float = 15.0) -> None:
        """Kill every member, also those that a dying one starts, and remove their shared memory.

        Args:
            patience: seconds to wait until the kernel has removed them all.
        """
        self.note_shared_memory()
        deadline = time.monotonic() + patience
        while (members := self.members()) and time.monotonic() < deadline:
            for pid in members:
                _kill(pid)
            time.sleep(0.05)
        if members:
            logger.warning("processes %s of the run did not end", members)
        self._remove_shared_memory()

    def _owns(self, pid: int) -> bool:
        if pid == os.getpid():
            return False
        try:
            state, _, _, session = _status(pid)
            if state in (b"Z", b"X"):
                return False
            environment = (_PROC / str(pid) / "environ").read_bytes()
        except (OSError, ValueError):
            return False
        return self._marker in environment.split(b"\0") or int(session) == self._session

    def _remove_shared_memory(self) -> None:
        for path in SHARED_MEMORY.iterdir():
            try:
                status = path.stat()
                # A segment from before the run, which a member only attached to, belongs to somebody else.
                if status.st_ino in self._segments and status.st_ctime >= self._born - 1:
                    path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                logger.warning("cannot remove the shared memory segment %s: %s", path, error)


def _process_ids() -> Iterator[int]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def _status(pid: int) -> list[bytes]:
    """State, parent, process group and session of a process: fields 3 to 6 of proc_pid_stat(5)."""
    # The second field is the name in brackets, which may hold blanks and brackets.
    return (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[:4]


def _parent(pid: int) -> int:
    """Parent of a process; 0, which is none, where it has ended."""
    try:
        return int(_status(pid)[1])
    except (OSError, IndexError):
        return 0


def _title(pid: int) -> str:
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return words[0].decode(errors="replace")


def _segments_of(pid: int) -> set[int]:
    """Inodes of the files in /dev/shm that a process maps or holds open."""
    root = _PROC / str(pid)
    inodes: set[int] = set()
    try:
        inodes |= {int(inode) for inode in _MAPPING.findall((root / "maps").read_bytes())}
        for descriptor in (root / "fd").iterdir():
            if os.readlink(descriptor).startswith(f"{SHARED_MEMORY}/"):
                inodes.add(descriptor.stat().st_ino)
    except OSError:
        pass  # The process ended while it was read; its segments are those seen before.
    return inodes


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        logger.warning("cannot end process %d of the run: %s", pid, error)
