"""The preloaded parent: `python -m agentfly.training.launch.preload.server DESCRIPTOR PROGRAM MODULE…`.

It has the descriptor of a socket that listens, imports the modules, and then forks for each client. It ends with its
parent, and its forks end with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentfly.process_tree import end_with_parent

# Variables that libraries read when they are imported: a process with others needs an interpreter of its own.
FIXED = (
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_", "PYTHONPATH", "PYTHONHOME"),
    *("TORCHDYNAMO_", "VERL_PLATFORM", "VLLM_LOGGING_LEVEL"),
)
_REQUEST_SECONDS = 10.0
_MOST_DESCRIPTORS = 253  # unix(7), SCM_MAX_FD
_OWN_DESCRIPTORS = 512  # the server's are above it, so that a fork finds the numbers free that it needs


@dataclass(frozen=True)
class Request:
    """A process that a client stands for.

    Attributes:
        arguments: of the interpreter.
        environment: all its variables.
        folder: its working folder.
        descriptors: numbers of its open files.
        received: numbers of the same files here, in the same order.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    descriptors: Sequence[int]
    received: Sequence[int]


class Server:
    """Forks for clients, and tells them of the ends of their forks.

    Args:
        listener: socket that the clients connect to.
        environment: with which the modules were imported. They set variables, which the processes of a fork inherit.
    """

    def __init__(self, listener: socket.socket, environment: Mapping[str, str]) -> None:
        self._listener = listener
        self._clients: dict[int, socket.socket] = {}  # by fork
        self._known = (environment, dict(os.environ))
        self._selector = selectors.DefaultSelector()
        self._woken, self._waker = (_above(end) for end in socket.socketpair())

    def serve(self) -> Request:
        """Serve for ever; return in a fork only, with the request for it."""
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    self._woken.recv(4096)
                    self._report_ends()
                elif key.fileobj is not self._listener:
                    self._end_without_client(key.data)
                elif (request := self._accept()) is not None:
                    return request

    def _accept(self) -> Request | None:
        client, _ = self._listener.accept()
        client = _above(client)
        client.settimeout(_REQUEST_SECONDS)
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as closed:
            request = _receive(client)
            for number in request.received:
                closed.callback(os.close, number)
            if others := self._others(request.environment):
                # Not by `logging`, which the libraries have set up for themselves.
                sys.stderr.write(f"a process with other {', '.join(sorted(others))} gets an interpreter of its own\n")
                sys.stderr.flush()
                client.sendall(b"declined")
            elif (fork := os.fork()) == 0:
                closed.pop_all()
                self._leave(client)
                return request
            else:
                self._clients[fork] = client
                self._selector.register(client, selectors.EVENT_READ, fork)
                client.sendall(b"fork %d" % fork)
                return None
        client.close()
        return None

    def _others(self, environment: Mapping[str, str]) -> set[str]:
        """Return the variables that are fixed here, and are others in an environment."""
        names = {name for name in {*environment, *self._known[0], *self._known[1]} if name.startswith(FIXED)}
        return {name for name in names if environment.get(name) not in [known.get(name) for known in self._known]}

    def _leave(self, client: socket.socket) -> None:
        """Let go, in a fork, of what belongs to the server."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for end in (self._listener, self._woken, self._waker, client, *self._clients.values()):
            end.close()

    def _report_ends(self) -> None:
        """Tell the clients of the forks that have ended."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                client = self._clients.pop(ended[0], None)
                if client is None:
                    continue
                self._selector.unregister(client)
                with contextlib.suppress(OSError):
                    client.sendall(b"ended %d" % os.waitstatus_to_exitcode(ended[1]))
                client.close()

    def _end_without_client(self, fork: int) -> None:
        """Kill a fork whose client was killed."""
        if (client := self._clients.pop(fork, None)) is not None:
            self._selector.unregister(client)
            client.close()
            os.kill(fork, signal.SIGKILL)


def _above(end: socket.socket) -> socket.socket:
    """Return a socket with a number that no fork needs."""
    return socket.socket(fileno=_number_above(end.detach()))


def _receive(client: socket.socket) -> Request:
    """Read a request.

    Raises:
        OSError: the client is gone, or silent.
        ValueError: it sends something else.
    """
    head, received, *_ = socket.recv_fds(client, 4, _MOST_DESCRIPTORS)
    size, body = int.from_bytes(head, "big"), b""
    while len(body) < size:
        if not (part := client.recv(size - len(body))):
            raise ValueError("the request ends too early")
        body += part
    return Request(**json.loads(body), received=[_number_above(number) for number in received])


def _number_above(number: int) -> int:
    moved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _OWN_DESCRIPTORS)
    os.close(number)
    return moved


def become(request: Request, imported: Mapping[str, str | None]) -> None:
    """Take the environment, folder and open files of a request, as if this process had been started with them.

    Args:
        request: of the process.
        imported: variables that the imports have set, or removed (None).
    """
    end_with_parent()
    os.setpgid(0, 0)
    sys.stdout.flush()
    sys.stderr.flush()
    for number, received in zip(request.descriptors, request.received, strict=True):
        os.dup2(received, number)
        os.close(received)
    # What stays equal stays in place: setproctitle looks for the memory of titles before the first variable.
    wanted = {**request.environment, **imported}
    for name, value in {**dict.fromkeys(os.environ), **wanted}.items():
        if value is None:
            os.environ.pop(name, None)
        elif os.environ.get(name) != value:
            os.environ[name] = value
    os.chdir(request.folder)
    if raylet := sys.modules.get("ray._raylet"):
        raylet.Config.initialize("")  # Ray keeps what it read of the environment, such as the mode of authentication
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # all forks would draw the same; Python's own generator sees to it by itself


def run(arguments: Sequence[str]) -> None:
    """Run a command line of the interpreter: `-c CODE`, `-m MODULE` or a script, with their arguments.

    Other options are left out: those of the server hold.
    """
    words = list(arguments)
    while words[0].startswith("-") and words[0] not in ("-c", "-m"):
        words.pop(0)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        code = compile(words[1], "<string>", "exec")
    else:
        sys.argv, sys.path[0] = words, os.path.dirname(os.path.abspath(words[0]))
        main.__file__ = words[0]
        with open(words[0], "rb") as file:
            code = compile(file.read(), words[0], "exec")
    exec(code, main.__dict__)


def main() -> None:
    """Import the modules, serve, and run what a fork is asked to run."""
    descriptor, program, *modules = sys.argv[1:]
    end_with_parent()
    listener = _above(socket.socket(fileno=int(descriptor)))
    # Ray reads it once in a process. Its workers end when this process does, and also when Ray's socket closes.
    os.environ["RAY_RAYLET_PID"] = str(os.getpid())
    before = dict(os.environ)
    for module in modules:
        importlib.import_module(module)
    imported = {name: os.environ.get(name) for name, _ in before.items() ^ os.environ.items()}
    if threading.active_count() > 1:
        sys.exit("a module has started a thread, which a fork would lack")
    multiprocessing.set_executable(program)
    gc.collect()
    gc.freeze()  # a collection in a fork would write to, and so copy, all that they share
    request = Server(listener, before).serve()
    become(request, imported)
    run(request.arguments)


if __name__ == "__main__":
    main()
