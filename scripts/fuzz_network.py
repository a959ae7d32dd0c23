"""The parts of `scripts/fuzz.py` that servers and their clients are given: requests, and replies of services."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
from collections.abc import Mapping
from random import Random
from typing import Any
from unittest.mock import patch

import httpx2
import openai
from fuzz_parts import Broken, Part, check_words
from PIL import Image
from pydantic import SecretStr

from agentfly.agents.llm_backends import (
    ClientBackend,
    ClientConfig,
    Generation,
    GenerationRequest,
    SamplingParams,
)
from agentfly.errors import (
    BackendError,
    ConfigError,
    EvaluatorError,
    ToolError,
)
from agentfly.evaluators.base import EditSample
from agentfly.evaluators.judge.judge import VlmJudge
from agentfly.evaluators.judge.settings import JudgeSettings
from agentfly.messages import text_message
from agentfly.serving.image_server import ServerSettings, UploadLimits
from agentfly.serving.image_server.http.app import create_app
from agentfly.vision.base import Detections
from agentfly.vision.detection.vlm_detector import VlmDetector, VlmSettings
from agentfly.vision.remote.adapters import BadReply, adapter_of, read_detections, read_image
from tests.fuzz.exchanges import KEY, REQUESTS, Request, chat_reply, image_reply


class Requests(Part):
    """Requests to a whole image server with classical engines, whose workers are processes of their own."""

    async def start(self) -> None:
        """Start the server, and wait for its workers."""
        limits = UploadLimits(body_bytes=1_000_000, pixels=1_000_000)
        self.app = create_app(ServerSettings(model_type="classical", limits=limits))
        self._running = self.app.router.lifespan_context(self.app)
        await self._running.__aenter__()
        await self._wait_for_workers()
        self._restarts = self._count_restarts()

    async def stop(self) -> None:
        """End the server and its workers."""
        await self._running.__aexit__(None, None, None)

    async def case(self, random: Random) -> None:
        """Send some requests at once; some clients leave before the answer. Afterwards the server still works."""
        sent = [random.choice(REQUESTS)(random) for _ in range(random.choice((1, 1, 4)))]
        self.given = sent
        for status, body in await asyncio.gather(*map(self._send, sent)):
            if status >= 500 and status not in (503, 504):
                raise Broken(f"the answer is {status}: {body[:300]!r}")
            if status >= 400:
                json.loads(body)["error"]["message"]
        await self._wait_for_workers()
        restarts, self._restarts = self._restarts, self._count_restarts()
        if self._restarts > restarts:
            raise Broken(f"{self._restarts - restarts} workers were ended and started again")

    def _count_restarts(self) -> int:
        return sum(worker.restarts for worker in self.app.state.server.dispatcher.workers)

    async def _send(self, request: Request) -> tuple[int, bytes]:
        """Return status and body of an answer; status 0 for a client that has left before it."""
        path, kind, body, leaves = request
        received, status, answer, over = [{"type": "http.request", "body": body}], 0, b"", asyncio.Event()

        async def receive() -> Mapping[str, object]:
            if received:
                return received.pop()
            if not leaves:
                await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            nonlocal status, answer
            status, answer = message.get("status", status), answer + message.get("body", b"")

        headers = [(b"host", b"127.0.0.1"), (b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
        method = "GET" if path == "/health" else "POST"
        raw = path.encode("utf-8", "replace")
        scope: dict[str, object] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
        }
        scope |= {"path": raw.decode(), "raw_path": raw, "query_string": b"", "root_path": "", "headers": headers}
        scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}
        await self.app(scope, receive, send)  # type: ignore[arg-type]
        over.set()
        return status, answer

    async def _wait_for_workers(self) -> None:
        dispatcher = self.app.state.server.dispatcher
        for _ in range(600):
            if all(worker.ready is not None for worker in dispatcher.workers):
                return
            await asyncio.sleep(0.1)
        raise Broken("a worker does not come back")


class Policy(ClientBackend):
    """The backend of chat endpoints, on a given client."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        config = ClientConfig(base_url=str(client.base_url), api_key=SecretStr(KEY), max_retries=1)
        super().__init__("m", config, sleep=at_once)
        self._given = client

    def _connect(self) -> openai.AsyncOpenAI:
        return self._given


async def at_once(_seconds: float) -> None:
    """Wait for nothing."""


async def unheard(_text: str) -> None:
    """Take a piece of a stream."""


class Chats(Part):
    """Replies of a chat endpoint, as a policy (whole and streamed), a detector and a judge read them."""

    IMAGE = Image.linear_gradient("L").resize((56, 56)).convert("RGB")
    REQUEST = GenerationRequest("r-0", "s", [text_message("user", "Darker.")], [], SamplingParams(max_tokens=9))

    async def start(self) -> None:
        """Make the client, which is answered in this process."""
        self._client = httpx2.AsyncClient(transport=httpx2.MockTransport(self._answer))
        url = "http://127.0.0.1/v1"
        self._sdk = openai.AsyncOpenAI(api_key=KEY, base_url=url, max_retries=0, http_client=self._client)

    async def stop(self) -> None:
        """Close the client."""
        await self._client.aclose()

    def _answer(self, _request: httpx2.Request) -> httpx2.Response:
        status, kind, body = self._replies[self._asked % 2]
        self._asked += 1
        return httpx2.Response(status, headers={"content-type": kind}, content=body)

    async def case(self, random: Random) -> None:
        """Give two replies in turn to every reader of them."""
        self.given = self._replies = [chat_reply(random) for _ in range(2)]
        for read in (self._generate, self._stream, self._detect, self._judge):
            self._asked = 0
            try:
                await read()
            except (BackendError, ConfigError, EvaluatorError, ToolError) as fault:
                check_words(fault)
            if self._asked > 20:
                raise Broken(f"{read.__name__} asks {self._asked} times")

    async def _generate(self) -> None:
        self._check(await Policy(self._sdk).generate(self.REQUEST))

    async def _stream(self) -> None:
        self._check(await Policy(self._sdk).generate(self.REQUEST, unheard))

    @staticmethod
    def _check(turn: Generation) -> None:
        calls = [[call.id, call.name, call.arguments, call.error] for call in turn.tool_calls or ()]
        json.dumps([turn.text, calls, turn.finish_reason, turn.prompt_tokens, turn.completion_tokens], allow_nan=False)

    async def _detect(self) -> None:
        detector = VlmDetector(VlmSettings(model="m"), self._sdk)
        found = await detector.detect(self.IMAGE, "a cat. a dog.", box_threshold=0.3, text_threshold=0.3)
        check_detections(found, self.IMAGE.size)

    async def _judge(self) -> None:
        settings = JudgeSettings(model="m", attempts=2, expected_score=True)
        judge = VlmJudge(settings, client=self._sdk, sleep=at_once)
        score = await judge.evaluate(EditSample("Darker.", self.IMAGE, self.IMAGE.point(lambda value: value // 2)))
        if not 0 <= score.value <= 100 or not math.isfinite(judge.usage.cost):
            raise Broken(f"the score is {score.value}, the cost {judge.usage.cost}")


def check_detections(found: Detections, size: tuple[int, int]) -> None:
    """Raise `Broken` unless objects lie in their image and have a score."""
    for one in found:
        if one.mask.size != size or not 0 <= one.box[0] < one.box[2] <= size[0] or not math.isfinite(one.score):
            raise Broken(f"an object has the box {one.box}, the score {one.score}, and a mask of {one.mask.size}")


class Servers(Part):
    """Replies of image servers: images, objects, lists of models."""

    SIZE = (24, 18)

    async def case(self, random: Random) -> None:
        """Read one reply in every way. No name is looked up."""
        self.given = body = image_reply(random)
        with patch.object(socket, "getaddrinfo", side_effect=OSError("no name is looked up")):
            for read in (read_image, lambda content: check_detections(read_detections(content, self.SIZE), self.SIZE)):
                try:
                    read(body)
                except BadReply as fault:
                    check_words(fault)
        with contextlib.suppress(ValueError):
            models = json.loads(body)
            if isinstance(models, dict):
                adapter_of(models)
