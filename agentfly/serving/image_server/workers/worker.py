"""The worker process: it runs an engine, takes work from the server over a socket, and ends when the server does.

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
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar

from agentfly.errors import AgentFlyError, EngineUnavailable, ToolError
from agentfly.redaction import log_to_stderr
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

P = ParamSpec("P")
T = TypeVar("T")
# Calls in threads of the request that the current task works on.
_calls: contextvars.ContextVar[list[Future[object]]] = contextvars.ContextVar("calls")


class _Threads(ThreadPoolExecutor):
    """The threads behind `asyncio.to_thread`, which note the request that each call belongs to."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future = super().submit(fn, *args, **kwargs)
        _calls.get([]).append(future)  # type: ignore[arg-type]
        return future


class _Worker:
    """One engine and the requests that it works on."""

    def __init__(self, connection: Connection, engine: WorkerEngine) -> None:
        self._connection = connection
        self._engine = engine
        self._tasks: dict[int, asyncio.Task[Done]] = {}
        self.ended = asyncio.Event()

    def handle(self, message: ToWorker) -> None:
        """Act on a message from the server."""
        if isinstance(message, Assign):
            started = time.monotonic()
            task = asyncio.create_task(self._work(message.job, message.work))
            self._tasks[message.job] = task
            # Not the task but its end sends the `Done`: a task that is cancelled before its first step runs none of its
            # code, not even a `finally`.
            task.add_done_callback(lambda ended: self._report(message.job, ended, time.monotonic() - started))
        elif isinstance(message, Cancel):
            task_or_none = self._tasks.get(message.job)
            if task_or_none is not None:
                task_or_none.cancel()
        else:
            self.ended.set()

    def _report(self, job: int, task: asyncio.Task[Done], seconds: float) -> None:
        """Send the `Done` of a task that has ended, however it did."""
        del self._tasks[job]
        done = Done(job, fault=Fault.cancelled) if task.cancelled() else task.result()
        try:
            self._connection.send(replace(done, seconds=seconds, memory=device_memory()))
        except OSError:
            raise
        except Exception as error:
            logger.exception("the outcome cannot be sent")
            self._connection.send(Done(job, fault=Fault.internal, message=type(error).__name__, seconds=seconds))

    async def _work(self, job: int, work: Work) -> Done:
        """Return the end of a job, once the threads that it started are idle."""
        calls: list[Future[object]] = []
        _calls.set(calls)
        outcome, fault, message = None, None, ""
        try:
            outcome = await self._engine.run(work)
        except asyncio.CancelledError:
            fault = Fault.cancelled
        except EngineUnavailable as error:
            fault, message = Fault.unavailable, str(error)
        except ToolError as error:
            fault, message = Fault.refused, str(error)
        except Exception as error:
            logger.exception("%s failed", work.operation.value)
            fault, message = Fault.internal, type(error).__name__
        running = [asyncio.wrap_future(call) for call in calls if not call.done()]
        if running:
            await asyncio.wait(running)
        return Done(job, outcome, fault, message)

    def read_messages(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hand each message of the server to the event loop. End this process when the server ends, however it does."""
        try:
            while True:
                loop.call_soon_threadsafe(self.handle, self._connection.recv())
        except (EOFError, OSError):
            os._exit(0)


def device_memory() -> Memory | None:
    """Return the memory of this worker's GPU, or None on CPU and while torch is not loaded."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    _, total = torch.cuda.mem_get_info()
    return Memory(torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated(), total)


async def _serve(connection: Connection, engine: WorkerEngine) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(_Threads(max_workers=32, thread_name_prefix="engine"))
    worker = _Worker(connection, engine)
    threading.Thread(target=worker.read_messages, args=(loop,), daemon=True).start()
    # Engines of users need not have it.
    max_images = getattr(engine, "max_images", 1)
    connection.send(Ready(engine.name, engine.operations, device_memory(), max_images))
    await worker.ended.wait()


def _load(connection: Connection, options: EngineOptions) -> WorkerEngine | None:
    """Load the engine, or send the reason why that is impossible. End this process if the server ends meanwhile."""
    loaded = threading.Event()

    def watch_server() -> None:
        # Until the engine is loaded, the server sends nothing but `Stop`, or ends itself.
        while not loaded.wait(0.5):
            if connection.poll(0):
                os._exit(0)

    watch = threading.Thread(target=watch_server, daemon=True)
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
    """Run `python -m agentfly.serving.image_server.workers.worker FILE_DESCRIPTOR OPTIONS`."""
    # The server decides when its workers end: a signal to the whole group must not interrupt their requests.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    log_to_stderr(logging.INFO, f"%(levelname)s worker {os.getpid()} %(name)s: %(message)s")
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
