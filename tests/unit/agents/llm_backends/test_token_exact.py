"""Token-exact turns through a chat endpoint: what the server is told, and what is believed of its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import JSONResponse
from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent, StopReason
from agentfly.agents.llm_backends import ClientBackend, ClientConfig, GenerationRequest, SamplingParams, token_exact
from agentfly.errors import BackendError
from agentfly.messages import Message, from_openai
from agentfly.templates import ChatCodec, load_template
from tests.unit.agents.conftest import ChatServer, Reply, completion, delta, stream

CALL = '<tool_call>{"name": "qwen_edit_image",  "arguments": {"image_id": "img_1", "prompt": "blur"}}</tool_call>'
ANSWER = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2"}}</tool_call>'


@pytest.fixture(scope="module")
def codec(tiny_policy: Path) -> ChatCodec:
    return ChatCodec.from_pretrained(str(tiny_policy), "qwen2.5-vl-system-tool")


class Renderer:
    """The part of a vLLM server that matters here: it renders what it is sent, by itself."""

    def __init__(self, codec: ChatCodec) -> None:
        self.codec = codec
        self.prompts: list[list[int]] = []

    def prompt(self, body: dict[str, Any]) -> list[int]:
        images: dict[str, Image.Image] = {}

        def keep(source: str) -> str:
            images[source] = Image.new("RGB", (168, 168))
            return source

        messages = [from_openai(message, keep) for message in body["messages"]]
        self.prompts.append(self.codec.prompt_ids(messages, body.get("tools", ()), images.__getitem__))
        return self.prompts[-1]

    def ids(self, text: str) -> list[int]:
        end = self.codec.tokenizer.convert_tokens_to_ids("<|im_end|>")
        return [*self.codec.tokenizer(text, add_special_tokens=False)["input_ids"], end]

    def says(self, text: str, *, ids: Sequence[int] | None = None, drift: int = 0, logprobs: bool = True) -> Reply:
        """A whole answer with the fields of vLLM's `return_token_ids`."""
        ids = self.ids(text) if ids is None else list(ids)

        def reply(body: dict[str, Any]) -> JSONResponse:
            told = [{"token": "?", "logprob": -0.5, "bytes": None, "top_logprobs": list[object]()} for _ in ids]
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
                "token_ids": ids,
                "logprobs": {"content": told} if logprobs else None,
            }
            prompt = self.prompt(body)
            return JSONResponse(
                {
                    "id": "c",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "m",
                    "choices": [choice],
                    "prompt_token_ids": [*prompt[: len(prompt) - drift]],
                }
            )

        return reply


@pytest.fixture
def vllm(codec: ChatCodec) -> Renderer:
    return Renderer(codec)


def backend(server: ChatServer, codec: ChatCodec, **fields: Any) -> ClientBackend:
    return ClientBackend("m", ClientConfig(base_url=server.url, return_token_ids=True, **fields), codec=codec)


def request(codec: ChatCodec, *messages: Message, session: str = "s", **extra: Any) -> GenerationRequest:
    messages = messages or (from_openai({"role": "user", "content": "hi"}, str),)
    return GenerationRequest(
        "r", session, messages, (), SamplingParams(extra=extra), codec.prompt_ids(messages, (), Image.open)
    )


async def test_a_run_with_images_in_tool_turns_is_exact(
    server: ChatServer, codec: ChatCodec, vllm: Renderer, image: Image.Image
) -> None:
    server.say(vllm.says(f"So:\n{CALL} "), vllm.says(ANSWER))
    settings = AgentSettings(system_prompt="Edit <|im_end|> it.")
    agent = ImageEditingAgent("m", backend=backend(server, codec), settings=settings)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Blur it <|image_pad|>."}]
    (trajectory,) = await agent.run([{"role": "user", "content": content}])
    await agent.close()
    assert (trajectory.error, trajectory.stop_reason) == (None, StopReason.ANSWERED)
    trajectory.check(codec, agent.store.get)
    tokens = trajectory.tokens
    assert tokens is not None
    # What the server worked on in the second turn is the rollout's own sequence up to there.
    last = trajectory.turns[-1]
    assert vllm.prompts[1] == tokens.prompt_ids + tokens.response_ids[: last.start]
    assert tokens.response_ids[last.start :] == vllm.ids(ANSWER)
    assert {value for value, mask in zip(tokens.logprobs, tokens.mask, strict=True) if mask} == {-0.5}
    first, second = server.bodies
    assert (first["return_token_ids"], first["logprobs"], first["tool_choice"]) == (True, True, "none")
    assert first["logit_bias"] == {str(codec.image_id): -100.0}
    assert set(first["stop_token_ids"]) == codec.eos_ids
    assert second["messages"][2]["content"] == f"So:\n{CALL} "
    assert "tool_calls" not in second["messages"][2]
    assert {part["type"] for part in second["messages"][3]["content"]} == {"text", "image_url"}


async def test_the_users_own_fields_stay(server: ChatServer, codec: ChatCodec, vllm: Renderer) -> None:
    server.say(vllm.says("ok"))
    await backend(server, codec, extra_body={"logit_bias": {"7": 1.0}, "top_k": 3}).generate(request(codec))
    (body,) = server.bodies
    assert body["logit_bias"] == {str(codec.image_id): -100.0, "7": 1.0}
    assert body["top_k"] == 3
    assert "tool_choice" not in body


async def test_streamed_ids_come_together(server: ChatServer, codec: ChatCodec, vllm: Renderer) -> None:
    ids = vllm.ids("one two")
    asked = request(codec)

    def piece(ids: list[int], **fields: Any) -> dict[str, Any]:
        told = [{"token": "?", "logprob": -float(i), "bytes": None, "top_logprobs": list[object]()} for i in ids]
        return {**delta(**fields), "token_ids": ids, "logprobs": {"content": told}}

    head = {"id": "c", "choices": [delta(role="assistant", content="")], "prompt_token_ids": list(asked.prompt_ids)}
    server.say(stream(_line(head), piece(ids[:1], content="one"), piece(ids[1:-1]), piece(ids[-1:], finish="stop")))
    heard: list[str] = []

    async def listen(text: str) -> None:
        heard.append(text)

    turn = await backend(server, codec).generate(asked, listen)
    assert (turn.text, turn.token_ids, turn.finish_reason) == ("one two", tuple(ids), "stop")
    assert turn.logprobs == tuple(-float(i) for i in ids)
    assert heard == ["one"]


def _line(body: dict[str, Any]) -> str:
    import json

    return json.dumps(body)


async def test_another_prompt_ends_the_turn_before_its_first_delta(
    server: ChatServer, codec: ChatCodec, vllm: Renderer
) -> None:
    head = {"id": "c", "choices": [delta(content="")], "prompt_token_ids": [1, 2]}
    server.say(stream(_line(head), *[delta(content="x")] * 50, delta(finish="stop"), gap=0.02))
    heard: list[str] = []

    async def listen(text: str) -> None:
        heard.append(text)

    with pytest.raises(BackendError, match=r"first difference at 0: vLLM \[1, 2\].*--template"):
        await backend(server, codec).generate(request(codec), listen)
    assert heard == []


async def test_another_tokenisation_of_the_same_text_is_told_apart(
    server: ChatServer, codec: ChatCodec, vllm: Renderer
) -> None:
    """A sampled turn whose ids are not those of its text: the server cannot be told, so the next turn must not pass."""
    letters = [i for letter in "edit" for i in codec.tokenizer(letter, add_special_tokens=False)["input_ids"]]
    assert letters != vllm.ids("edit")[:-1]
    server.say(vllm.says("edit", ids=[*letters, vllm.ids("")[-1]]), vllm.says("x"))
    client = backend(server, codec)
    user = from_openai({"role": "user", "content": "hi"}, str)
    first = await client.generate(request(codec, user))
    assert first.token_ids is not None
    said = from_openai({"role": "assistant", "content": first.text}, str)
    ids = [
        *codec.prompt_ids([user], (), Image.open),
        *first.token_ids,
        *codec.continuation_ids([user], (), Image.open, ended_by=codec.end_id),
    ]
    asked = GenerationRequest("r", "s", (user, said, user), (), SamplingParams(), ids)
    with pytest.raises(BackendError, match="Both are the same text"):
        await client.generate(asked)


@pytest.mark.parametrize(
    "reply",
    [
        lambda vllm: completion("ok"),
        lambda vllm: vllm.says("ok", logprobs=False),
        lambda vllm: vllm.says("ok", ids=[]),
    ],
)
async def test_a_server_that_sends_no_ids_is_told_so(
    server: ChatServer, codec: ChatCodec, vllm: Renderer, reply: Callable[[Renderer], Reply]
) -> None:
    server.say(reply(vllm))
    with pytest.raises(BackendError, match="needs a vLLM server"):
        await backend(server, codec).generate(request(codec))


async def test_sessions_are_forgotten_in_the_end(
    server: ChatServer, codec: ChatCodec, vllm: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_exact, "_MOST_SESSIONS", 2)
    client = backend(server, codec)
    for session in "abac":
        server.say(vllm.says("ok"))
        await client.generate(request(codec, session=session))
    assert client._exact is not None
    assert list(client._exact._sampled) == ["a", "c"]


def test_the_codec_comes_from_the_checkpoint(tiny_policy: Path) -> None:
    config = ClientConfig(base_url="http://x/v1", return_token_ids=True, checkpoint=str(tiny_policy))
    exact_backend = ClientBackend("served-name", config, template="compact-tool")
    assert exact_backend.codec is not None
    assert exact_backend.codec.template == load_template("compact-tool")
    assert ClientBackend("m", ClientConfig(base_url="http://x/v1")).codec is None
