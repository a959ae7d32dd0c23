"""Find leftovers of earlier runs, and other programs on the ports of our servers."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agentfly.doctor.checks.storage import SCRATCH, SHARED_MEMORY
from agentfly.doctor.examination import Examination
from agentfly.doctor.findings import Finding, ok, skipped, warning
from agentfly.process_tree import MARKER

PROC = Path("/proc")
PORTS = {
    8000: "python -m agentfly.utils.deploy and agentfly serve-images",
    8100: "python -m agentfly.serving.evaluator_server",
    6379: "the head of a Ray cluster (ray start --head)",
    8265: "Ray's dashboard",
}
_DRIVER = b"agentfly.training.verl.driver"
# verl's weights for the engine, Python's shared memory (vLLM's queues) and semaphores, torch's tensors.
_SEGMENTS = ("verl_weights_*", "psm_*", "sem.mp-*", "torch_*")
# Folders of `launch` and of `agentfly.utils.deploy`, with eight characters of `tempfile`.
_FOLDER = re.compile(r"agentfly-(?:deploy-)?[a-z0-9_]{8}")
# Age in seconds: a folder is made a moment before the process that names it.
_YOUNG = 60.0
_MAPPING = re.compile(rb"^\S+ \S+ \S+ \S+ (\d+) +/dev/shm/", re.MULTILINE)
_LISTED = 8


@dataclass(frozen=True)
class Process:
    """A living process: its run ("" for none), its command line and its environment."""

    pid: int
    run: str
    command: bytes
    environment: bytes


def processes(proc: Path = PROC) -> list[Process]:
    """Return the processes that we may read in a /proc file system; zombies have no environment."""
    found = []
    for entry in proc.iterdir() if proc.is_dir() else ():
        if not entry.name.isdigit():
            continue
        try:
            environment, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
        except OSError:
            continue
        mark = f"{MARKER}=".encode()
        run = next((v.removeprefix(mark).decode() for v in environment.split(b"\0") if v.startswith(mark)), "")
        found.append(Process(int(entry.name), run, command, environment))
    return found


def runs(_: Examination) -> Iterator[Finding]:
    """Check the processes of runs."""
    yield from check_runs(processes()) if PROC.is_dir() else [skipped("this system has no /proc")]


def shared_segments(_: Examination) -> Iterator[Finding]:
    """Check for shared memory that no living process uses."""
    if not SHARED_MEMORY.is_dir() or not PROC.is_dir():
        yield skipped("this system has no /dev/shm")
        return
    yield from check_segments(orphaned_segments(SHARED_MEMORY, inodes_in_use(), os.getuid()))


def scratch(_: Examination) -> Iterator[Finding]:
    """Check for temporary folders of dead programs."""
    yield from check_scratch(abandoned_folders(SCRATCH, processes(), time.time()))


def ports(examination: Examination) -> Iterator[Finding]:
    """Check the default ports of our servers and of Ray."""
    request = examination.request
    nodes = [node if "://" in node else f"http://{node}" for node in request.nodes]
    addresses = [*nodes, *([request.base_url] if request.base_url else [])]
    expected = set()
    for address in addresses:
        with contextlib.suppress(ValueError):
            expected.add(urlsplit(address).port)
    yield from check_ports(is_taken, expected)


def check_runs(found: Sequence[Process]) -> Iterator[Finding]:
    """Judge the processes of runs: those of a run without its driver hold memory and ports for nothing."""
    members: dict[str, list[Process]] = {}
    for process in found:
        if process.run:
            members.setdefault(process.run, []).append(process)
    for run, own in sorted(members.items()):
        if any(_DRIVER in process.command for process in own):
            yield ok(f"run {run} is going on, {len(own)} processes")
        else:
            pids = " ".join(str(process.pid) for process in own)
            yield warning(f"run {run} is over, and {len(own)} of its processes are not", f"kill -9 {pids}")
    if not members:
        yield ok("no processes of a run")


def check_segments(orphans: Mapping[Path, int]) -> Iterator[Finding]:
    """Report shared memory of dead processes, which stays until it is removed."""
    if not orphans:
        yield ok("no shared memory without a living owner")
        return
    size = sum(orphans.values()) / 1024**2
    yield warning(
        f"{len(orphans)} shared memory segments ({size:.1f} MiB) of programs that are gone",
        f"if no container shares this /dev/shm: rm {_paths(list(orphans))}",
    )


def check_scratch(folders: Sequence[Path]) -> Iterator[Finding]:
    """Report temporary folders, which only killed programs leave."""
    if folders:
        yield warning(f"{len(folders)} temporary folders of programs that were killed", f"rm -r {_paths(folders)}")
    else:
        yield ok("no temporary folders of programs that are gone")


def check_ports(taken: Callable[[int], bool], expected: Collection[int | None]) -> Iterator[Finding]:
    """Report the default ports that other programs hold.

    Args:
        taken: returns True for a port that somebody listens on.
        expected: ports of the servers that the user named.
    """
    busy = [port for port in PORTS if port not in expected and taken(port)]
    for port in busy:
        yield warning(f"port {port} is taken; it is the default of {PORTS[port]}", "start the next one with --port")
    if not busy:
        yield ok(f"ports {', '.join(str(port) for port in PORTS if port not in expected)} are free")


def is_taken(port: int) -> bool:
    """Return True if a program listens on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def inodes_in_use(proc: Path = PROC) -> set[int]:
    """Return the inodes of the files in /dev/shm that living processes map or hold open."""
    found: set[int] = set()
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            found |= {int(inode) for inode in _MAPPING.findall((entry / "maps").read_bytes())}
            for descriptor in (entry / "fd").iterdir():
                if os.readlink(descriptor).startswith(f"{SHARED_MEMORY}/"):
                    found.add(descriptor.stat().st_ino)
        except OSError:
            continue
    return found


def orphaned_segments(folder: Path, in_use: set[int], user: int) -> dict[Path, int]:
    """Return the unused segments of our kinds with their bytes.

    Args:
        folder: of the segments.
        in_use: inodes of `inodes_in_use`.
        user: id of the owner.
    """
    orphans = {}
    for path in sorted(path for pattern in _SEGMENTS for path in folder.glob(pattern)):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if status.st_uid == user and status.st_ino not in in_use:
            orphans[path] = status.st_size
    return orphans


def abandoned_folders(folder: Path, found: Sequence[Process], now: float) -> list[Path]:
    """Return our temporary folders that no living process names in its command line or environment.

    Args:
        folder: of temporary folders.
        found: living processes.
        now: seconds since 1970.
    """
    abandoned = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not (_FOLDER.fullmatch(path.name) and path.is_dir() and now - path.stat().st_mtime > _YOUNG):
            continue
        name = path.name.encode()
        if not any(name in process.command or name in process.environment for process in found):
            abandoned.append(path)
    return abandoned


def _paths(paths: Sequence[Path]) -> str:
    more = f"; then look again, {len(paths) - _LISTED} more are there" if len(paths) > _LISTED else ""
    return " ".join(str(path) for path in paths[:_LISTED]) + more
