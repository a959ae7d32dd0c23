"""One worker process as the server sees it: its start, its messages and its end.

The two processes share a socket pair that nobody else holds, so each notices the end of the other whatever its cause,
SIGKILL included, and no worker outlives its server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from agentfly.errors import ConfigError
from agentfly.serving.image_server.settings import EngineOptions
from agentfly.serving.image_server.workers.messages import FromWorker, Stop, ToWorker

T = TypeVar("T")
_MODULE = "agentfly.serving.image_server.workers.worker"


class WorkerProcess:
    """A process that runs one engine.

    Args:
        options: of the engine that it loads.
        gpu: the only GPU that it sees; None leaves the choice to the device.
        on_message: called on the event loop with each of its messages.
        on_exit: called on the event loop once, with the exit code.

    Raises:
        ConfigError: there is no such GPU.
    """

    def __init__(
        self,
        options: EngineOptions,
        gpu: int | None,
        on_message: Callable[[FromWorker], None],
        on_exit: Callable[[int], None],
    ) -> None:
        self._on_message, self._on_exit = on_message, on_exit
        self._loop = asyncio.get_running_loop()
        self._outbox: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        environment = dict(os.environ)
        # The worker must find what the server finds, modules of `--model-type custom` included.
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible_device(gpu, os.environ.get("CUDA_VISIBLE_DEVICES"))
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(theirs.fileno()), options.model_dump_json()],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
            )
        finally:
            theirs.close()
        self._connection = Connection(ours.detach())
        for loop in (self._read_messages, self._write_messages):
            threading.Thread(target=loop, name=f"worker-{self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, message: ToWorker) -> None:
        """Send a message, in order, without waiting. A dead process loses it; `on_exit` reports that end."""
        self._outbox.put(message)

    def kill(self) -> None:
        """Kill the process."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def stop(self, grace: float) -> None:
        """Ask the process to end, and kill it after `grace` seconds."""
        self.send(Stop())
        try:
            await asyncio.to_thread(self._process.wait, grace)
        except subprocess.TimeoutExpired:
            self.kill()
            await asyncio.to_thread(self._process.wait)

    def _read_messages(self) -> None:
        try:
            while True:
                self._notify(self._on_message, self._connection.recv())
        except (EOFError, OSError):
            pass
        finally:
            self._outbox.put(None)
            # The socket may close a moment before the process is gone, or by a fault that leaves it running.
            self.kill()
            code = self._process.wait()
            self._connection.close()
            self._notify(self._on_exit, code)

    def _write_messages(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._connection.send(message)
            except OSError:
                return

    def _notify(self, listener: Callable[[T], None], news: T) -> None:
        # The loop is closed when the server itself has ended.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(listener, news)


def visible_device(gpu: int, visible: str | None) -> str:
    """Return the value of CUDA_VISIBLE_DEVICES for one GPU.

    Args:
        gpu: number of the GPU among those that this process sees, from 0.
        visible: CUDA_VISIBLE_DEVICES of this process; None where it is not set.

    Raises:
        ConfigError: this process sees fewer GPUs.
    """
    if visible is None:
        return str(gpu)
    devices = [device.strip() for device in visible.split(",") if device.strip()]
    if gpu >= len(devices):
        raise ConfigError(f"--gpu-ids {gpu}: CUDA_VISIBLE_DEVICES={visible!r} leaves {len(devices)} GPUs, from 0 on")
    return devices[gpu]
