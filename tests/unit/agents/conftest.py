"""A real HTTP server that speaks chat completions, and says what a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

Reply = Callable[[dict[str, Any]], Response]


def completion(text: str | None = "ok", *, finish: str = "stop", calls: list[dict[str, Any]] | None = None) -> Reply:
    """A whole answer."""
    message = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
    body = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }
    return lambda _: JSONResponse(body)


def changed(**fields: Any) -> Reply:
    """A whole answer with other fields."""
    message = {"role": "assistant", "content": "ok"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return lambda _: JSONResponse({"id": "c", "object": "chat.completion", "choices": [choice], **fields})


def said(content: Any, finish: str | None = "stop") -> dict[str, Any]:
    """Fields of a whole answer with this content."""
    return {"choices": [{"index": 0, "message": {"content": content}, "finish_reason": finish}]}


def failure(status: int, message: str = "no", headers: dict[str, str] | None = None, **error: Any) -> Reply:
    """An error in OpenAI's form."""
    return lambda _: JSONResponse({"error": {"message": message, **error}}, status, headers)


def stream(*events: Any, gap: float = 0.0, done: bool = True) -> Reply:
    """Server-sent events; a dict is a choice, anything else is sent as it is."""

    def lines() -> Iterator[str]:
        for event in events:
            choice = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [event]}
            yield f"data: {json.dumps(choice) if isinstance(event, dict) else event}\n\n"
            time.sleep(gap)
        if done:
            yield "data: [DONE]\n\n"

    return lambda _: StreamingResponse(lines(), media_type="text/event-stream")


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """One choice of a chunk."""
    return {"index": 0, "delta": fields, "finish_reason": finish}


@dataclass
class ChatServer:
    """What the server was asked, and what it will say next (then "ok" for ever).

    Attributes:
        models: what it lists; it has no list while there are none.
        listing: what it answers in place of its list.
        wanted: the only key that it takes; any when None.
    """

    url: str = ""
    replies: deque[Reply] = field(default_factory=deque)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    listing: str | None = None
    wanted: str | None = None

    def say(self, *replies: Reply) -> None:
        """Queue replies."""
        self.replies.extend(replies)


@pytest.fixture(scope="module")
def running_server() -> Iterator[ChatServer]:
    chat = ChatServer()
    app = FastAPI()

    @app.post("/v1/chat/completions")
    def complete(body: dict[str, Any], request: Request) -> Response:
        chat.bodies.append(body)
        chat.keys.append(request.headers.get("authorization"))
        reply = chat.replies.popleft() if chat.replies else completion()
        return reply(body)

    @app.get("/v1/models")
    def list_models(request: Request) -> Response:
        if chat.wanted is not None and request.headers.get("authorization") != f"Bearer {chat.wanted}":
            return failure(401, "who are you?")({})
        if chat.listing is not None:
            return Response(chat.listing, media_type="application/json")
        models = [{"id": name, "object": "model", "owned_by": "x"} for name in chat.models]
        return JSONResponse({"object": "list", "data": models}, 200 if models else 404)

    list_models.__annotations__.update(request=Request, **{"return": Response})
    complete.__annotations__.update(body=dict[str, Any], request=Request, **{"return": Response})
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    chat.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    yield chat
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def server(running_server: ChatServer) -> ChatServer:
    """The server, with nothing said and nothing heard."""
    running_server.replies.clear()
    running_server.bodies.clear()
    running_server.keys.clear()
    running_server.models.clear()
    running_server.wanted = running_server.listing = None
    return running_server
