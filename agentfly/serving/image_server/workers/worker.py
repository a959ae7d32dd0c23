"""The process that holds an engine: takes work from the server over a socket, and ends when the server does.

The slot of a request is given back only when its threads are idle again, also after it was cancelled. So the server can
trust a `Done`, and restarts a worker that does not send one.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from agentfly.errors import AgentFlyError, EngineUnavailable, ToolError
from agentfly.serving.image_server.settings import EngineOptions
from agentfly.serving.image_server.workers.engines import WorkerEngine, load_engine
from agentfly.serving.image_server.workers.messages import (
    Assign,
    Cancel,
    Done,
    Fault,
    FromWorker,
    Memory,
    NotLoaded,
    Ready,
    ToWorker,
    Work,
)

logger = logging.getLogger(__name__)

_calls: contextvars.ContextVar[list[Future[Any]] | None] = contextvars.ContextVar("calls", default=None)


class _Threads(ThreadPoolExecutor):
    """The threads behind `asyncio.to_thread`; notes which request each call belongs to."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        calls = _calls.get()
        if calls is not None:
            calls.append(future)
        return future


class _Worker:
    """One engine and the requests that it works on."""

    def __init__(self, connection: Connection, engine: WorkerEngine) -> None:
        self._connection = connection
        self._engine = engine
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.ended = asyncio.Event()

    def take(self, message: ToWorker) -> None:
        """Act on a message from the server."""
        if isinstance(message, Assign):
            task = asyncio.create_task(self._do(message.job, message.work))
            self._tasks[message.job] = task
            task.add_done_callback(lambda _: self._tasks.pop(message.job, None))
        elif isinstance(message, Cancel):
            task_or_none = self._tasks.get(message.job)
            if task_or_none is not None:
                task_or_none.cancel()
        else:
            self.ended.set()

    async def _do(self, job: int, work: Work) -> None:
        calls: list[Future[Any]] = []
        _calls.set(calls)
        started = time.monotonic()
        done = await self._outcome(job, work)
        running = [asyncio.wrap_future(call) for call in calls if not call.done()]
        if running:
            await asyncio.wait(running)
        seconds = time.monotonic() - started
        self._connection.send(Done(job, done.outcome, done.fault, done.message, seconds, device_memory()))

    async def _outcome(self, job: int, work: Work) -> Done:
        try:
            return Done(job, await self._engine.run(work))
        except asyncio.CancelledError:
            return Done(job, fault=Fault.cancelled)
        except EngineUnavailable as fault:
            return Done(job, fault=Fault.unavailable, message=str(fault))
        except ToolError as fault:
            return Done(job, fault=Fault.refused, message=str(fault))
        except Exception as fault:
            logger.exception("%s failed", work.operation.value)
            return Done(job, fault=Fault.internal, message=type(fault).__name__)


def device_memory() -> Memory | None:
    """Memory of this worker's GPU; None on CPU, and while torch is not loaded."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    _, total = torch.cuda.mem_get_info()
    return Memory(torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated(), total)


def _read(connection: Connection, loop: asyncio.AbstractEventLoop, worker: _Worker) -> None:
    """Hand on what the server sends; the end of the server, however it ended, is the end of this process."""
    try:
        while True:
            loop.call_soon_threadsafe(worker.take, connection.recv())
    except (EOFError, OSError):
        os._exit(0)


def _watch(connection: Connection, loaded: threading.Event) -> None:
    """While the engine loads, all that can come from the server is its wish or its own end."""
    while not loaded.wait(0.5):
        if connection.poll(0):
            os._exit(0)


async def _serve(connection: Connection, engine: WorkerEngine) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(_Threads(max_workers=32, thread_name_prefix="engine"))
    worker = _Worker(connection, engine)
    threading.Thread(target=_read, args=(connection, loop, worker), daemon=True).start()
    connection.send(Ready(engine.name, engine.operations, device_memory()))
    await worker.ended.wait()


def _load(connection: Connection, options: EngineOptions) -> WorkerEngine | None:
    loaded = threading.Event()
    watch = threading.Thread(target=_watch, args=(connection, loaded), daemon=True)
    watch.start()
    answer: FromWorker
    try:
        return load_engine(options)
    except AgentFlyError as fault:
        answer = NotLoaded(str(fault))
    except Exception as fault:
        logger.exception("the engine cannot be loaded")
        answer = NotLoaded(f"{type(fault).__name__}: {fault}")
    finally:
        loaded.set()
        watch.join()
    connection.send(answer)
    return None


def main() -> None:
    """Entry point: `python -m agentfly.serving.image_server.workers.worker FILE_DESCRIPTOR OPTIONS`."""
    # The server decides when its workers end; signals to the whole group must not take work from under its feet.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format=f"%(levelname)s worker {os.getpid()} %(name)s: %(message)s")
    connection = Connection(int(sys.argv[1]))
    try:
        engine = _load(connection, EngineOptions.model_validate_json(sys.argv[2]))
        if engine is not None:
            asyncio.run(_serve(connection, engine))
    except OSError:
        pass
    finally:
        logging.shutdown()
        # Threads of an engine that hangs would keep the interpreter from ending.
        os._exit(0)


if __name__ == "__main__":
    main()
