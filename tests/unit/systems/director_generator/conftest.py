"""A real HTTP server on which a whole studio can work: chat, Stability's API and an image server."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image

from tests.unit.agents.conftest import Reply, completion, delta, stream
from tests.unit.serving.image_server.running import as_text

ROOT = Path(__file__).resolve().parents[4]
RECIPE = ROOT / "recipes" / "director_generator"
MODELS = ("qwen/Qwen2.5-VL-7B-Instruct", "gpt-4o", "gpt-4o-mini")


@dataclass
class StudioServer:
    """The requests that the server got, and its next replies.

    Attributes:
        faults: replies to the next chat requests, in place of those that fit.
        image_faults: the same for images.
        score: points for a critique, from the number of critiques before it.
    """

    url: str = ""
    faults: deque[Reply] = field(default_factory=deque)
    image_faults: deque[Reply] = field(default_factory=deque)
    score: Callable[[int], Any] = lambda _: 90
    chats: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    phases: Counter[str] = field(default_factory=Counter)

    @property
    def v1(self) -> str:
        """Address of the chat endpoint."""
        return f"{self.url}/v1"

    def answer(self, body: dict[str, Any]) -> Response:
        """What an agent says to a prompt of the recipe."""
        self.chats.append(body)
        if self.faults:
            return self.faults.popleft()(body)
        if body["model"] not in MODELS:
            message = f"The model `{body['model']}` does not exist."
            return JSONResponse({"error": {"message": message, "type": "NotFoundError", "code": 404}}, 404)
        text = self._says(said(body))
        if not body.get("stream"):
            return completion(text)(body)
        words = [delta(content=word) for word in re.findall(r"\S+\s*", text)]
        return stream(*words, delta("stop"))(body)

    def _says(self, user: str) -> str:
        if "Write a brief" in user:
            self.phases["brief"] += 1
            return "A red boat, whole, on calm water."
        if "Answer with one JSON object" in user:
            self.phases["critique"] += 1
            score = self.score(self.phases["critique"] - 1)
            return f"Well. {json.dumps({'feedback': 'The boat is cut off.', 'score': score})}"
        name = "refine" if "Write a better prompt" in user else "write"
        self.phases[name] += 1
        return f"A red boat, version {self.phases['write'] + self.phases['refine']}\nNegative prompt: text, frames"


def said(body: dict[str, Any]) -> str:
    """The user's words of a request."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def shown(body: dict[str, Any]) -> int:
    """Images of a request."""
    content = body["messages"][-1]["content"]
    return 0 if isinstance(content, str) else sum(part["type"] == "image_url" for part in content)


def boat(seed: int) -> str:
    """An image as base64."""
    return as_text(Image.new("RGB", (16, 16), (200, seed % 256, 40)))


def _app(studio: StudioServer) -> FastAPI:
    app = FastAPI()

    def chat(body: dict[str, Any], request: Request) -> Response:
        studio.keys.append(request.headers.get("authorization"))
        return studio.answer(body)

    def make_image(body: dict[str, Any], request: Request) -> Response:
        studio.images.append({**body, "authorization": request.headers.get("authorization")})
        if studio.image_faults:
            return studio.image_faults.popleft()(body)
        if "text_prompts" in body:
            image = {"base64": boat(body["seed"]), "finishReason": "SUCCESS", "seed": body["seed"]}
            return JSONResponse({"artifacts": [image]})
        return JSONResponse({"created": 0, "data": [{"b64_json": boat(body["seed"])}]})

    for endpoint in (chat, make_image):
        endpoint.__annotations__.update(body=dict[str, Any], request=Request, **{"return": Response})
    app.post("/v1/chat/completions")(chat)
    app.post("/v1/images/generations")(make_image)
    app.post("/v1/generation/stable-diffusion-xl-1024-v1-0/text-to-image")(make_image)
    return app


@pytest.fixture(scope="module")
def running_studio() -> Iterator[StudioServer]:
    studio = StudioServer()
    server = uvicorn.Server(uvicorn.Config(_app(studio), host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    studio.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield studio
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def server(running_studio: StudioServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StudioServer:
    """The server with nothing said and nothing heard; the environment and the working folder say nothing either."""
    fresh = StudioServer(running_studio.url)
    vars(running_studio).update(vars(fresh))
    names = ("OPENAI_API_KEY", "VLLM_API_BASE", "OPENAI_BASE_URL", "STABILITY_API_KEY")
    for name in (*names, "SDXL_API_BASE", "SDXL_API_KEY", "SDXL_FAILOVER_MODE", "UPLOAD_URL", "UPLOAD_PUBLIC_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return running_studio


Configure = Callable[..., Path]


@pytest.fixture
def configure(server: StudioServer, tmp_path: Path) -> Configure:
    """Writes the recipe's configuration with changes: one director, two generators, small images."""

    def write(**changes: Any) -> Path:
        data = yaml.safe_load((RECIPE / "config" / "system_config.yaml").read_text(encoding="utf-8"))
        sdxl = {**data["sdxl"], "size": "64x64", "seed": 7, "retries": 1, **changes.pop("sdxl", {})}
        directors = tmp_path / "directors.json"
        directors.write_text(json.dumps([{"name": "Ada", "persona": "You look closely."}]), encoding="utf-8")
        data |= {"vllm": {"api_base": server.v1}, "sdxl": sdxl, "prompts": str(RECIPE / "prompts"), "retries": 1}
        # Whether LiteLLM is installed here must not decide what most tests go through.
        data["chat"] = "client"
        data |= {"directors": str(directors), "generators": str(RECIPE / "config" / "generators.json")}
        path = tmp_path / "system.yaml"
        path.write_text(yaml.safe_dump({**data, **changes}), encoding="utf-8")
        return path

    return write


def broken_off(beginning: str) -> Reply:
    """A reply whose connection is lost after its beginning."""
    from fastapi.responses import StreamingResponse

    def pieces() -> Iterator[bytes]:
        yield beginning.encode()
        raise ConnectionResetError("the test pulls the plug")

    return lambda _: StreamingResponse(pieces(), media_type="text/event-stream")
