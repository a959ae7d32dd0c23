"""The transport to a program: JSON-RPC, one message a line, on its standard input and output.

The SDK's own transport takes lines of any length. Here a line has a bound, and the program runs in a session of its
own, so that it ends with all its children.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from agentfly.aio import TimeLimitExceeded, with_timeout
from agentfly.errors import ConfigError, printable, shortened
from agentfly.lenient_json import MOST_VALUES, count_separators
from agentfly.process_tree import MARKER, ProcessFamily
from agentfly.tools.mcp.settings import McpServer

logger = logging.getLogger(__name__)

ToClient = MemoryObjectSendStream[SessionMessage | Exception]
TransportStreams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]

# Seconds for a program to end by itself when its input is closed, and for its processes to be gone once killed.
_GRACE, _PATIENCE = 1.0, 5.0
_TAIL = 400
# In a row. Some programs print other things, too, but a flood of them would leave the event loop no time.
_MOST_OTHER_LINES = 1000


class ProgramStreams:
    """The messages of a program, which is started on entering and ended on leaving.

    Args:
        server: settings with a command.

    Attributes:
        problem: the reason why the messages ended; empty where there is none to tell.
        over: True once no more messages come.
    """

    def __init__(self, server: McpServer) -> None:
        self._server, self._words = server, b""
        self.problem, self.over = "", False

    @property
    def last_words(self) -> str:
        """The end of what the program wrote to its standard error."""
        return printable(self._words.decode("utf-8", "replace")).strip()[-_TAIL:]

    @asynccontextmanager
    async def transport(self) -> AsyncIterator[TransportStreams]:
        """Start the program, and yield its messages and a stream for ours."""
        process, family = await self._start()
        to_client, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        outgoing, from_client = anyio.create_memory_object_stream[SessionMessage](0)
        try:
            async with to_client, incoming, outgoing, from_client, anyio.create_task_group() as tasks:
                tasks.start_soon(self._read, process, to_client)
                tasks.start_soon(self._write, process, from_client, to_client)
                tasks.start_soon(self._listen, process)
                try:
                    yield incoming, outgoing
                finally:
                    tasks.cancel_scope.cancel()
        finally:
            await _end(process, family)

    async def _start(self) -> tuple[asyncio.subprocess.Process, ProcessFamily]:
        server, run = self._server, f"mcp-{uuid4().hex}"
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                server.command,
                *server.args,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                limit=server.max_message_bytes,
                env={MARKER: run, **server.environment()},
                cwd=server.folder,
                start_new_session=True,
            )
        except (OSError, ValueError) as fault:
            reason = fault.strerror if isinstance(fault, OSError) else fault
            raise ConfigError(f"{server.label} cannot be started: {reason}; check its command") from fault
        return process, ProcessFamily(run, session=process.pid)

    async def _read(self, process: asyncio.subprocess.Process, to_client: ToClient) -> None:
        assert process.stdout is not None
        try:
            await self._read_lines(process.stdout, to_client)
        finally:
            self.over = True

    async def _read_lines(self, output: asyncio.StreamReader, to_client: ToClient) -> None:
        other_lines = 0
        async with to_client:
            while True:
                try:
                    line = await output.readline()
                except ValueError:
                    self.problem = f"it sent a message of more than {self._server.max_message_bytes} bytes"
                    return
                if not line:
                    return
                if count_separators(line) > MOST_VALUES:
                    self.problem = f"it sent a message with more than {MOST_VALUES} values"
                    return
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError:
                    logger.debug("%s wrote a line that is no message", self._server.label)
                    other_lines += 1
                    if other_lines > _MOST_OTHER_LINES:
                        self.problem = f"it wrote more than {_MOST_OTHER_LINES} lines that are no messages"
                        return
                    continue
                other_lines = 0
                try:
                    await to_client.send(SessionMessage(message))
                except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                    return

    async def _write(
        self,
        process: asyncio.subprocess.Process,
        from_client: MemoryObjectReceiveStream[SessionMessage],
        to_client: ToClient,
    ) -> None:
        assert process.stdin is not None
        try:
            async for message in from_client:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                process.stdin.write(f"{text}\n".encode())
                await process.stdin.drain()
        except (OSError, anyio.ClosedResourceError):
            # It takes nothing any more. The client must see the end, even if the program goes on.
            await to_client.aclose()

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Keep the last words of the program, which say why it ended."""
        assert process.stderr is not None
        while words := await process.stderr.read(4096):
            self._words = (self._words + words)[-4 * _TAIL :]
            logger.debug("%s: %s", self._server.label, shortened(self.last_words, _TAIL))


async def _end(process: asyncio.subprocess.Process, family: ProcessFamily) -> None:
    """End a program: close its input, wait a moment, then kill all its processes."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        with contextlib.suppress(TimeLimitExceeded):
            await with_timeout(process.wait(), _GRACE)
    finally:
        # In a thread, which goes on if this is cancelled.
        await asyncio.to_thread(family.end, _PATIENCE)
        # asyncio lets go of a pipe once it was read to its end.
        with contextlib.suppress(TimeLimitExceeded):
            await with_timeout(_drain(process), _GRACE)


async def _drain(process: asyncio.subprocess.Process) -> None:
    for output in (process.stdout, process.stderr):
        while output is not None and await output.read(2**20):
            pass
    await process.wait()
