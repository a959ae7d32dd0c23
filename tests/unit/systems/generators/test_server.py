"""Replies of image servers and of Stability's API in other forms, each an error of the engine."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import httpx2
import openai
import pytest
from PIL import Image
from pydantic import SecretStr

from agentfly.errors import ConfigError, ToolError
from agentfly.images import encode_image
from agentfly.openai_client import Endpoint, SdkClient
from agentfly.systems.generators.base import GeneratedImage, ImageRequest
from agentfly.systems.generators.server import ServerGenerator
from agentfly.systems.generators.stability import StabilityGenerator

FILE = encode_image(Image.new("RGBA", (9, 7), (255, 0, 0, 0)))
FILE += b"\0" * ((1 - len(FILE)) % 3)  # its base64 ends in padding
TEXT = base64.b64encode(FILE).decode()


def reply(data: Any) -> httpx2.Response:
    return httpx2.Response(200, content=json.dumps({"data": data}), headers={"content-type": "application/json"})


def served(answer: httpx2.Response, *, text_only: bool = False) -> ServerGenerator:
    def say(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/v1/models":
            return httpx2.Response(200, json={"data": [{"id": "m", "owned_by": "somebody"}]})
        return answer if not request.url.path.endswith("edits") else httpx2.Response(405, json={"detail": "no"})

    generator = ServerGenerator(Endpoint(base_url="http://images.test"), "server_url", text_only=text_only)
    sdk = openai.AsyncOpenAI(
        api_key="k",
        base_url="http://images.test/v1",
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(say)),
    )
    generator._client = SdkClient(Endpoint(base_url="http://images.test/v1"), sdk)
    return generator


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ([{"b64_json": TEXT}], FILE),
        ([{"b64_json": TEXT.rstrip("=")}], None),
        ([{"b64_json": f"data:image/png;base64,{TEXT}"}], None),
        ([{"b64_json": None, "url": f"data:image/png;base64,{TEXT}"}], None),
        ([TEXT], FILE),
        ({"b64_json": TEXT}, FILE),
    ],
)
async def test_the_image_is_read_from_every_form_and_keeps_its_transparency(data: Any, kept: bytes | None) -> None:
    made = await served(reply(data)).generate(ImageRequest("a ring"))
    assert (made.image.size, made.image.getpixel((0, 0)), made.encoded) == ((9, 7), (255, 0, 0, 0), kept)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "sent no image"),
        ([], "sent no image"),
        ([None], "sent no image"),
        ([{"b64_json": 5}], "sent no image"),
        ([{"url": ["http://images.test"]}], "sent no image"),
        ([{"b64_json": "aGVsbG8="}], "cannot be read"),
        ([{"b64_json": "%%%"}], "cannot be read"),
        ([{"b64_json": "\ud800"}], "cannot be read"),
        (["<html>"], "cannot be read"),
        ([{"url": "/etc/hostname"}], "cannot be read"),
    ],
)
async def test_a_reply_without_an_image_is_an_error_of_the_server(data: Any, words: str) -> None:
    with pytest.raises(ToolError, match=f"the image server http://images.test/v1 .*{words}"):
        await served(reply(data)).generate(ImageRequest("a ring"))
    with pytest.raises(ConfigError if words == "sent no image" else ToolError, match=words):
        await served(reply(data), text_only=True).generate(ImageRequest("a ring"))


async def test_a_server_that_does_not_allow_edits_goes_on_from_text() -> None:
    start = ImageRequest("a ring", 2, (), GeneratedImage(Image.new("RGB", (9, 7))))
    assert (await served(reply([{"b64_json": TEXT}])).generate(start)).image.size == (9, 7)


async def no_nap(_: float) -> None:
    """Instead of sleeping."""


async def stability(body: bytes, status: int = 200) -> GeneratedImage:
    made = StabilityGenerator("http://s.test", "xl", SecretStr("k"), size=(9, 7), retries=0, sleep=no_nap)
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=body))
    made._client = httpx.AsyncClient(transport=transport, base_url="http://s.test")
    return await made.generate(ImageRequest("a ring"))


def artifact(text: object) -> bytes:
    return json.dumps({"artifacts": [{"base64": text, "finishReason": "SUCCESS"}]}).encode()


@pytest.mark.parametrize("text", [TEXT, TEXT.rstrip("="), f"data:image/png;base64,{TEXT}"])
async def test_stabilitys_image_is_read_from_every_form(text: str) -> None:
    assert (await stability(artifact(text))).image.size == (9, 7)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"null",
        b"[]",
        b'{"artifacts": null}',
        b'{"artifacts": ["x"]}',
        b'{"artifacts": [null]}',
        b"[" * 100_000,
        b"\xff",
        artifact(None),
        artifact(5),
        artifact("aGVsbG8="),
        artifact("\ud800"),
        artifact("<html>"),
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)
async def test_stabilitys_other_replies_are_errors_of_the_engine(body: bytes) -> None:
    with pytest.raises(ToolError, match="stability xl"):
        await stability(body)
    with pytest.raises(ToolError, match="stability xl answered 400"):
        await stability(body, 400)
