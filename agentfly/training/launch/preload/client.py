"""The program in place of the interpreter: has the preloaded parent fork, and stands for the fork until its end.

It is started by path, without `site`, in 15 ms. So it imports nothing but small parts of the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from array import array

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 5.0  # of a fork whose asker has died


def main(python: str, address: str) -> None:
    """Run the command line of this process in a fork of the server, or become the interpreter where that fails.

    Args:
        python: the interpreter.
        address: path of the server's socket.
    """
    arguments = sys.argv[1:]
    asker = os.getppid()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fork = _ask(connection, arguments, address) if _is_for_forks(arguments) else None
    except (OSError, ValueError):
        fork = None
    if fork is None:
        connection.close()
        os.execv(python, [python, *arguments])
    _end_as(_wait(connection, fork, asker))


def _is_for_forks(arguments: list[str]) -> bool:
    """Return True for Ray's workers, the processes of multiprocessing, and modules of this package."""
    if "--multiprocessing-fork" in arguments:
        return True
    words = [word for word in arguments if not word.startswith("-")]
    return bool(words) and (words[0].endswith("/default_worker.py") or words[0].startswith("agentfly."))


def _ask(connection: socket.socket, arguments: list[str], address: str) -> int | None:
    """Send what a fork needs; return its process id, or None if the server declines.

    Waits for as long as the server imports. The server's end is an `OSError`, or no answer.
    """
    own = connection.fileno()
    descriptors = [number for number in map(int, os.listdir("/proc/self/fd")) if number != own and _is_open(number)]
    request = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "descriptors": descriptors,
    }
    body = json.dumps(request).encode()
    connection.connect(address)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
    connection.sendmsg([len(body).to_bytes(4, "big")], rights)
    connection.sendall(body)
    answer = connection.recv(64).decode()
    if not answer.startswith("fork "):
        return None
    for number in descriptors:
        # The other ends of pipes wait for the fork to close these.
        if number > 2:
            os.close(number)
    return int(answer.split()[1])


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:  # it was that of the listing itself
        return False
    return True


def _wait(connection: socket.socket, fork: int, asker: int) -> int:
    """Wait for the end of the fork, and pass signals on to it; return its exit code, or minus a signal.

    Args:
        connection: to the server, which reports the end.
        fork: process id.
        asker: process that started this one. The fork ends when it does, as a child that asked the kernel would.
    """
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: _pass_on(fork, number))
    orphaned = 0.0
    while not select.select([connection], [], [], _POLL_SECONDS)[0]:
        if os.getppid() == asker:
            continue
        if not orphaned:
            orphaned = time.monotonic()
            _pass_on(fork, signal.SIGTERM)
        elif time.monotonic() - orphaned > _GRACE_SECONDS:
            _pass_on(fork, signal.SIGKILL)
    words = connection.recv(64).decode().split()
    return int(words[1]) if words else -signal.SIGKILL  # without an answer the server has died, and its forks with it


def _pass_on(fork: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(fork, number)


def _end_as(code: int) -> None:
    """End this process as the fork ended."""
    if code < 0:
        if -code in _SIGNALS:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
