"""Replies of the Responses API that are broken off, refused or of another form, for text and for images."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response
from PIL import Image

from agentfly.errors import BackendError, ConfigError, ToolError
from agentfly.images import encode_image
from agentfly.openai_client import Endpoint, SdkClient
from agentfly.systems.generators.base import GeneratedImage, ImageRequest, Usage
from agentfly.systems.generators.openai import OpenAIGenerator
from agentfly.systems.generators.responses import ResponsesClient, text_of

FILE = encode_image(Image.new("RGBA", (9, 7), (255, 0, 0, 0)))
FILE += b"\0" * ((1 - len(FILE)) % 3)  # its base64 ends in padding
TEXT = base64.b64encode(FILE).decode()


def client(answer: httpx2.Response) -> SdkClient:
    sdk = openai.AsyncOpenAI(
        api_key="k",
        base_url="http://model.test/v1",
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: answer)),
    )
    return SdkClient(Endpoint(base_url="http://model.test/v1"), sdk)


def body(*output: object, **fields: object) -> httpx2.Response:
    return httpx2.Response(200, json={"id": "r", "object": "response", "output": list(output), **fields})


def message(content: object) -> dict[str, object]:
    return {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": content}


def said(text: object) -> dict[str, object]:
    return message([{"type": "output_text", "text": text, "annotations": []}])


def call(**fields: object) -> dict[str, object]:
    return {"type": "image_generation_call", "id": "i", "status": "failed", "result": None, **fields}


async def write(answer: httpx2.Response, usage: Usage | None = None) -> str:
    asked = ResponsesClient("m", Endpoint(base_url="http://model.test/v1"))
    asked._sdk = client(answer)
    return text_of(await asked.create(usage or Usage(), input="x"))


async def draw(answer: httpx2.Response) -> GeneratedImage:
    generator = OpenAIGenerator("m", Endpoint(base_url="http://model.test/v1"), {"model": "image-model"})
    generator._client._sdk = client(answer)
    return await generator.generate(ImageRequest("a ring"))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (body(said("half a"), status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "max_output_"),
        (body(said("half a"), status="incomplete", incomplete_details="out of tokens"), "out of tokens"),
        (body(said("half a"), status="incomplete"), "is incomplete"),
        (body(said("half a"), status="cancelled"), "cancelled"),
        (body(said("half a"), status="failed", error={"code": "x", "message": "out of ink"}), "out of ink"),
        (body(said("half a"), status="failed", error="out of ink"), "out of ink"),
        (body(status="failed", error=["out of ink"]), "out of ink"),
        (body(message(None)), "no reason"),
        (body(message([None])), "no reason"),
        (body(said(None)), "no reason"),
        (body(None, "words"), "no reason"),
        (body(call(error="unsafe")), "unsafe"),
        (body(call(error={"message": "unsafe"})), "unsafe"),
        (body(message([{"type": "refusal", "refusal": None}])), "refused"),
    ],
)
async def test_a_reply_that_is_not_whole_is_an_error_with_the_reason(answer: httpx2.Response, reason: str) -> None:
    with pytest.raises(ToolError, match=reason):
        await write(answer)
    with pytest.raises(ToolError, match=reason):
        await draw(answer)


@pytest.mark.parametrize("answer", [body(said("hello")), body(message("hello")), body(message(["hello"]))])
async def test_the_text_is_read_from_every_form_of_content(answer: httpx2.Response) -> None:
    assert await write(answer) == "hello"
    with pytest.raises(ToolError, match="made nothing and said: hello"):
        await draw(answer)


@pytest.mark.parametrize(
    "usage", [None, {}, "much", {"input_tokens": None}, {"input_tokens": "5", "output_tokens": []}]
)
async def test_usage_of_another_form_counts_the_request_alone(usage: object) -> None:
    account = Usage()
    assert await write(body(said("hello"), usage=usage), account) == "hello"
    assert account == Usage(requests=1)


@pytest.mark.parametrize(
    ("text", "kept"), [(TEXT, FILE), (TEXT.rstrip("="), None), (f"data:image/png;base64,{TEXT}", None)]
)
async def test_the_image_is_read_from_every_form_and_keeps_its_transparency(text: str, kept: bytes | None) -> None:
    made = await draw(body(call(result=text)))
    assert (made.image.size, made.image.getpixel((0, 0)), made.encoded) == ((9, 7), (255, 0, 0, 0), kept)


@pytest.mark.parametrize("result", ["aGVsbG8=", "<html>", "/etc/hostname", "\ud800"])
async def test_an_image_that_cannot_be_read_is_an_error_of_the_engine(result: str) -> None:
    reply = Response.construct(id="r", output=[call(result=result)], error=None)
    generator = OpenAIGenerator("m", Endpoint(base_url="http://model.test/v1"), {"model": "image-model"})
    with pytest.raises(ToolError, match="the model image-model sent an image that cannot be read"):
        generator._read_image(reply, Usage())


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_server_without_the_api_is_a_wrong_setting(status: int) -> None:
    with pytest.raises(ConfigError, match=r"check (model and )?base_url"):
        await write(httpx2.Response(status, json={"detail": "Method Not Allowed"}))


@pytest.mark.parametrize(
    "answer",
    [
        *(httpx2.Response(status, json={"error": "no"}) for status in (400, 404, 405, 422, 501)),
        httpx2.Response(200, html="<html>"),
        httpx2.Response(200, json=None),
        httpx2.Response(200, json={"id": 7}),
    ],
    ids=lambda answer: str(answer.status_code),
)
async def test_a_server_without_conversations_has_none(answer: httpx2.Response) -> None:
    asked = ResponsesClient("m", Endpoint(base_url="http://model.test/v1"))
    asked._sdk = client(answer)
    assert await asked.open_conversation() is None


async def test_a_server_that_fails_is_not_taken_for_one_without_conversations() -> None:
    asked = ResponsesClient("m", Endpoint(base_url="http://model.test/v1"))
    asked._sdk = client(httpx2.Response(503, json={"error": {"message": "loading"}}))
    with pytest.raises(BackendError, match="loading"):
        await asked.open_conversation()


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(["message", "refusal", "failed"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "content", "text", "error", "message", "refusal", "result"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@given(st.lists(anything, max_size=3), anything, anything, anything)
def test_no_reply_is_a_fault_of_ours(output: list[object], error: object, status: object, details: object) -> None:
    reply = Response.construct(id="r", output=output, error=error, status=status, incomplete_details=details)
    with suppress(ToolError):
        assert text_of(reply)


async def test_an_address_at_which_nobody_has_ever_listened_is_a_wrong_setting() -> None:
    client = ResponsesClient("m", Endpoint(base_url="http://127.0.0.1:1/v1", api_key="k", retries=0))
    with pytest.raises(ConfigError, match=r"cannot reach http://127\.0\.0\.1:1/v1 \(.*\): start .* --base-url"):
        await client.create(Usage(), input="x")
    await client.close()
