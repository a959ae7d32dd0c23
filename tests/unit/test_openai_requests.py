"""Requests through the SDK are what they would be without our shortcuts."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest

from agentfly.openai_requests import create_of, new_client

MESSAGES = [
    {"role": "system", "content": "half a pair: \ud800"},
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "text", "text": 'é "quoted"\n'},
        ],
    },
]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
ANSWER = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": []}


class Sent:
    """Answers every request, and keeps it."""

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return httpx2.Response(200, json=ANSWER)

    def body(self) -> Any:
        return json.loads(self.requests[-1].content)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    sent = Sent()
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(sent))
    monkeypatch.setattr(openai, "DefaultAsyncHttpxClient", lambda **_: http)
    return sent


def client() -> openai.AsyncOpenAI:
    return new_client("http://h/v1", "k", timeout=5.0, retries=0)


async def test_the_body_is_what_the_sdk_would_send(sent: Sent) -> None:
    fields: dict[str, Any] = {"model": "m", "temperature": 0.5, "messages": MESSAGES[1:], "tools": TOOLS}
    await create_of(client())(**fields, extra_body={"top_k": 3})
    ours = sent.body()
    plain = openai.AsyncOpenAI(api_key="k", base_url="http://h/v1", http_client=openai.DefaultAsyncHttpxClient())
    await plain.chat.completions.create(**fields, extra_body={"top_k": 3})
    assert ours == sent.body()
    first, second = (request.headers["content-type"] for request in sent.requests)
    assert first == second == "application/json"


async def test_half_a_surrogate_pair_is_sent_as_a_question_mark(sent: Sent) -> None:
    await create_of(client())(model="m", messages=MESSAGES)
    assert sent.body()["messages"][0]["content"] == "half a pair: ?"


async def test_what_pydantic_cannot_write_is_left_to_the_sdk(sent: Sent) -> None:
    deep: Any = "end"
    for _ in range(300):
        deep = {"in": deep}
    await create_of(client())(model="m", messages=MESSAGES, extra_body={"deep": deep})
    assert sent.body()["deep"] == deep


async def test_files_are_sent_as_a_form(sent: Sent) -> None:
    await client().images.edit(model="m", prompt="p", image=("a.png", b"png", "image/png"))
    assert sent.requests[-1].headers["content-type"].startswith("multipart/form-data; boundary=")
    assert b'name="prompt"' in sent.requests[-1].content


async def test_a_client_of_another_library_gets_its_arguments_as_they_are() -> None:
    got: dict[str, Any] = {}

    async def create(**fields: Any) -> None:
        got.update(fields)

    other = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    await create_of(other)(model="m", messages=MESSAGES, extra_body={"a": 1})
    assert got == {"model": "m", "messages": MESSAGES, "extra_body": {"a": 1}}
