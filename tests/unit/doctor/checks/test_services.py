"""Endpoints, with real loopback servers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.responses import JSONResponse
from PIL import Image

from agentfly.agents.llm_backends import ClientConfig
from agentfly.doctor import DoctorRequest, Examination
from agentfly.doctor.checks import services
from agentfly.doctor.checks.conversation import load
from agentfly.images.load import load_image
from agentfly.messages import from_openai
from agentfly.templates import ChatCodec
from tests.unit.agents.conftest import ChatServer, completion, failure, running_server, server
from tests.unit.agents.llm_backends.test_token_exact import Renderer
from tests.unit.doctor.judged import levels, only

__all__ = ["running_server", "server"]

MODELS = {"object": "list", "data": [{"id": "policy", "max_model_len": 2048}]}


@pytest.fixture(scope="module")
def models_url() -> Iterator[str]:
    """A server that has a list of models and nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/v1/models"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(json.dumps(MODELS if found else {}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()
    http.server_close()


def asked(**fields: Any) -> tuple[Examination, tuple[str, str]]:
    examination = Examination(DoctorRequest(**fields))
    return examination, only(services.endpoint(examination))


def test_the_list_of_models_tells_name_and_context(models_url: str) -> None:
    examination, found = asked(base_url=models_url)
    assert found == ("ok", f"{models_url} serves policy")
    assert (examination.served, examination.engine_context) == ("policy", 2048)


def test_a_wrong_name_offers_the_nearest(models_url: str) -> None:
    assert "Did you mean 'policy'" in asked(base_url=models_url, model="polisy")[1][1]


def test_no_finding_shows_a_secret_of_an_address(models_url: str) -> None:
    for url in (models_url, models_url.removesuffix("/v1"), "http://127.0.0.1:9/v1"):
        address = url.replace("://", "://me:pa55word@")
        _, (_, message) = asked(base_url=address)
        assert url.replace("://", "://***@") in message
        assert "pa55word" not in message


def test_nobody_listens_and_nobody_was_named() -> None:
    assert "cannot be reached" in asked(base_url="http://127.0.0.1:9/v1")[1][1]
    assert asked()[1][0] == "skipped"


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(401), "refuses the key"),
        (httpx.Response(404, text="not found"), "answered 404 and no list of models"),
        (httpx.Response(200, json={"data": [3]}), "no list of models"),
        (httpx.Response(200, text="[" * 300_000), "no list of models"),
        (httpx.Response(200, json={"data": []}), "serves no model"),
    ],
)
def test_what_is_no_list_of_models(response: httpx.Response, message: str) -> None:
    (finding,) = services.read_models(response, "http://h/v1", None)[1]
    assert only([finding])[0] == "error"
    assert message in finding.message


def config(server: ChatServer) -> ClientConfig:
    return ClientConfig(base_url=server.url, max_retries=0, timeout=10)


def test_an_answer_to_an_image(server: ChatServer) -> None:
    server.say(completion("red"), failure(400, "this model does not take images"))
    assert only(services.check_answer(config(server), "m")) == ("ok", "answers a question with an image (3 tokens)")
    kinds = [part["type"] for part in server.bodies[0]["messages"][0]["content"]]
    assert kinds == ["image_url", "text"]
    assert "does not take images" in only(services.check_answer(config(server), "m"))[1]


def test_token_ids_without_a_checkpoint(server: ChatServer) -> None:
    with_ids = {"prompt_token_ids": [1, 2], "choices": [{"token_ids": [3]}]}
    server.say(lambda _: JSONResponse(with_ids), completion(), failure(400, "unknown field"))
    assert [levels(services.check_ids(config(server), "m")) for _ in range(3)] == [["ok"], ["warning"], ["warning"]]
    assert server.bodies[0]["return_token_ids"] is True


def test_a_server_that_is_gone_is_not_taken_for_one_without_images_or_ids(codec: ChatCodec) -> None:
    gone = ClientConfig(base_url="http://127.0.0.1:9/v1", max_retries=0, timeout=10)
    for findings in (
        services.check_answer(gone, "m"),
        services.check_ids(gone, "m"),
        services.check_exact(gone, "m", codec),
    ):
        (finding,) = findings
        assert finding.level.value == "error"
        assert finding.fix.startswith("look at the server's log and load, and at the network")


class TrueRenderer(Renderer):
    """As a server does: the images are those that it was sent."""

    def prompt(self, body: dict[str, Any]) -> list[int]:
        images: dict[str, Image.Image] = {}

        def keep(source: str) -> str:
            images[source] = load_image(source)
            return source

        messages = [from_openai(message, keep) for message in body["messages"]]
        return self.codec.prompt_ids(messages, body.get("tools", ()), images.__getitem__)


@pytest.fixture(scope="module")
def codec(tiny_policy: Path) -> ChatCodec:
    return ChatCodec.from_pretrained(str(tiny_policy), "qwen2.5-vl-system-tool")


def test_the_servers_prompt_is_the_rollouts(server: ChatServer, codec: ChatCodec) -> None:
    server.say(TrueRenderer(codec).says("ok"))
    level, message = only(services.check_exact(config(server), "m", codec))
    runs = [codec.image_length(handle, load) for handle in ("img_large", "img_small")]
    assert (level, f"images of {runs} tokens" in message) == ("ok", True)


def test_other_pixel_limits_other_templates_and_no_ids_are_told(server: ChatServer, codec: ChatCodec) -> None:
    other, limited = ChatCodec(codec.processor, None), ChatCodec(codec.processor, codec.template)
    # The first renderer takes every image for one of 168 x 168.
    server.say(Renderer(limited).says("ok"), TrueRenderer(other).says("ok"), completion())
    found = [only(services.check_exact(config(server), "m", codec)) for _ in range(3)]
    assert [level for level, _ in found] == ["error"] * 3
    assert "first difference at" in found[0][1]
    assert "first difference at" in found[1][1]
    assert "0 token ids" in found[2][1]


def test_with_a_checkpoint_the_exact_question_is_asked(server: ChatServer, codec: ChatCodec) -> None:
    examination = Examination(DoctorRequest(base_url=server.url))
    examination.served = "m"
    server.say(completion())
    assert levels(services.token_ids(examination)) == ["warning"]
    examination.codec = codec
    server.say(TrueRenderer(codec).says("ok"))
    assert levels(services.token_ids(examination)) == ["ok"]
    assert levels(services.answer(examination)) == ["ok"]
