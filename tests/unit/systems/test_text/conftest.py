"""The chat server of the backends' tests, for the text systems."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest_asyncio
from fastapi.responses import StreamingResponse

from agentfly.systems import VLLMModel
from tests.unit.agents.conftest import ChatServer, Reply, delta, running_server, server, stream

__all__ = ["running_server", "server"]


def say(*pieces: str, gap: float = 0.0) -> Reply:
    """A streamed answer."""
    return stream(*(delta(content=piece) for piece in pieces), delta("stop"), gap=gap)


def drop(*pieces: str) -> Reply:
    """A streamed answer whose connection is cut in the middle of a chunked body."""

    def lines() -> Iterator[str]:
        for piece in pieces:
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
            yield f"data: {json.dumps({**chunk, 'choices': [delta(content=piece)]})}\n\n"
        raise ConnectionAbortedError("the test cuts the connection")

    return lambda _: StreamingResponse(lines(), media_type="text/event-stream")


def prompt_of(body: dict[str, Any]) -> str:
    """The last message of a request."""
    return str(body["messages"][-1]["content"])


@pytest_asyncio.fixture
async def model(server: ChatServer) -> AsyncIterator[VLLMModel]:
    """A model behind the server."""
    made = VLLMModel("m", server.url, "sk-1", max_retries=2, timeout=5)
    yield made
    await made.close_client()
