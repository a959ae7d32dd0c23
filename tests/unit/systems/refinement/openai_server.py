"""A server on loopback that speaks as OpenAI does: images and prompts by /v1/responses, judgements by chat."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Reply:
    """A status and a body, after some seconds; `cut` closes the connection in the middle of it."""

    body: Any
    status: int = 200
    after: float = 0.0
    cut: bool = False


def encoded(colour: Any = "red", kind: str = "PNG", size: tuple[int, int] = (32, 24)) -> bytes:
    """An image of one colour as a file."""
    buffer = io.BytesIO()
    Image.new("RGBA" if isinstance(colour, tuple) and len(colour) == 4 else "RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def fault(status: int, message: str = "no", code: str | None = None) -> Reply:
    """An error in OpenAI's form."""
    return Reply({"error": {"message": message, "type": "error", "code": code, "param": None}}, status)


def response(*output: dict[str, Any], **fields: Any) -> Reply:
    """A response; its id is given when it is sent."""
    usage = {
        "input_tokens": 100,
        "output_tokens": 20,
        "total_tokens": 120,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    return Reply({"object": "response", "created_at": 0, "output": list(output), "usage": usage, **fields})


def drawn(colour: Any = "red", kind: str = "PNG") -> Reply:
    """A response with an image."""
    text = base64.b64encode(encoded(colour, kind)).decode()
    return response({"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": text})


def written(text: str) -> Reply:
    """A response of words."""
    part = {"type": "output_text", "text": text, "annotations": []}
    return response({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]})


def refused(words: str) -> Reply:
    """A response in which the model refuses."""
    part = {"type": "refusal", "refusal": words}
    return response({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]})


def judged(score: int, feedback: str = "More light.") -> Reply:
    """A judge's chat completion."""
    return chat(json.dumps({"feedback": feedback, "score": score}))


def chat(text: str) -> Reply:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    return Reply(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
    )


@dataclass
class OpenAIServer:
    """A server with its next replies, by the part that is asked, and the requests that it got.

    Attributes:
        images, prompts, judgements: replies in turn; the last one for ever.
        conversations: whether there is a Conversations API.
        asked: (who, body) in order.
    """

    url: str
    images: deque[Reply] = field(default_factory=lambda: deque([drawn()]))
    prompts: deque[Reply] = field(default_factory=lambda: deque([written("a better prompt")]))
    judgements: deque[Reply] = field(default_factory=lambda: deque([judged(50)]))
    conversations: bool = True
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def say(
        self,
        images: list[Reply] | None = None,
        judgements: list[Reply] | None = None,
        prompts: list[Reply] | None = None,
    ) -> None:
        """Replace what it says."""
        self.images = deque(images) if images else self.images
        self.judgements = deque(judgements) if judgements else self.judgements
        self.prompts = deque(prompts) if prompts else self.prompts

    def bodies(self, who: str) -> list[dict[str, Any]]:
        """Requests to one of: image, prompt, judge, conversation."""
        return [body for name, body in self.asked if name == who]

    def reply(self, path: str, body: dict[str, Any], key: str | None) -> Reply:
        with self._lock:
            self.keys.append(key)
            if path == "/v1/conversations":
                self.asked.append(("conversation", body))
                found = {"id": "conv_7", "object": "conversation", "created_at": 0, "metadata": {}}
                return Reply(found) if self.conversations else fault(404, "no such path")
            if path == "/v1/chat/completions":
                # The judge is asked with images, a prompter without.
                if isinstance(body["messages"][-1]["content"], list):
                    self.asked.append(("judge", body))
                    return _next(self.judgements)
                self.asked.append(("prompt", body))
                return _next(self.prompts)
            who, queue = ("image", self.images) if body.get("tools") else ("prompt", self.prompts)
            self.asked.append((who, body))
            made = _next(queue)
            if made.status != 200 or isinstance(made.body, bytes):
                return made
            return Reply({"id": f"resp_{len(self.asked)}", **made.body}, 200, made.after, made.cut)


def _next(queue: deque[Reply]) -> Reply:
    return queue.popleft() if len(queue) > 1 else queue[0]


@contextmanager
def openai_server() -> Iterator[OpenAIServer]:
    """Serve until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    state = OpenAIServer(f"http://127.0.0.1:{server.server_address[1]}/v1")
    server.state = state  # type: ignore[attr-defined]
    threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def state(self) -> OpenAIServer:
        return self.server.state  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", "0"))) or b"{}")
        reply = self.state.reply(self.path, body, self.headers["authorization"])
        if reply.after:
            time.sleep(reply.after)
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self._send(reply.status, "application/json", content, cut=reply.cut)

    def do_GET(self) -> None:
        content = self.state.files.get(self.path)
        self._send(404 if content is None else 200, "image/png", content or b"")

    def _send(self, status: int, kind: str, content: bytes, *, cut: bool = False) -> None:
        try:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = self.close_connection or cut
        except OSError:
            # The client has given up.
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Tests read no access log."""
