"""A judge on a real loopback socket that says what a script tells it, with every way to get it wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One reply: its text, or a whole body, or a fault of the connection."""

    text: str | None = ""
    status: int = 200
    refusal: str | None = None
    finish: str = "stop"
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    logprobs: list[dict[str, Any]] | None = None
    cut: bool = False
    until: threading.Event | None = None


def said(**values: Any) -> Reply:
    """A well-formed reply."""
    return Reply(json.dumps({"feedback": "Fine.", **values}))


def serving(*models: str) -> Reply:
    """The list of an endpoint's models."""
    listed = [{"id": name, "object": "model", "created": 0, "owned_by": "us"} for name in models]
    return Reply(body=json.dumps({"object": "list", "data": listed}).encode())


def fault(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    """An HTTP fault in OpenAI's form."""
    error = {"message": message, "type": "error", "code": code, "param": None}
    return Reply(status=status, body=json.dumps({"error": error}).encode(), headers=headers)


Script = Callable[[dict[str, Any], int], Reply]


@dataclass
class Judge:
    """The running server: its address, and what it was asked. `models` is its reply to those who ask for its models."""

    base_url: str
    script: Script
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    models: Reply | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, request: dict[str, Any]) -> int:
        """Keep a request; which one it is, from 0."""
        with self._lock:
            self.requests.append(request)
            return len(self.requests) - 1


def in_turn(*replies: Reply) -> Script:
    """Replies one after the other; the last one for ever."""
    return lambda request, number: replies[min(number, len(replies) - 1)]


def schema_name(request: dict[str, Any]) -> str:
    """Which question a request asks."""
    return str(request["response_format"]["json_schema"]["name"])


@contextmanager
def judge(script: Script | Reply) -> Iterator[Judge]:
    """Serve until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    state = Judge(
        f"http://127.0.0.1:{server.server_address[1]}/v1", in_turn(script) if isinstance(script, Reply) else script
    )
    server.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Small packets must not wait for the other side's acknowledgement.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        state: Judge = self.server.state  # type: ignore[attr-defined]
        state.keys.append(self.headers["authorization"])
        self._answer(state.models or serving("m"))

    def do_POST(self) -> None:
        state: Judge = self.server.state  # type: ignore[attr-defined]
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        state.keys.append(self.headers["authorization"])
        reply = state.script(request, state.count(request))
        if reply.until is not None:
            reply.until.wait(20)
        self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        body = reply.body if reply.body is not None else _completion(reply)
        try:
            self.send_response(reply.status)
            for name, value in {"content-type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if reply.cut else body)
            self.close_connection = self.close_connection or reply.cut
        except OSError:
            # The client has given up.
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Tests read no access log."""


def _completion(reply: Reply) -> bytes:
    message = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
    choice = {"index": 0, "finish_reason": reply.finish, "message": message}
    if reply.logprobs is not None:
        choice["logprobs"] = {"content": reply.logprobs, "refusal": None}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    completion = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }
    return json.dumps(completion).encode()
