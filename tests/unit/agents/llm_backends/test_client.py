"""The client against a real HTTP server: what is sent, what is read, what is tried again."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import time
from typing import Any

import pytest
from fastapi import Response
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import SecretStr

from agentfly.agents.llm_backends import ClientBackend, ClientConfig, GenerationRequest, SamplingParams
from agentfly.errors import BackendError
from agentfly.messages import ImagePart, Message, TextPart, ToolCall, text_message
from agentfly.tools import parse_tool_calls
from tests.unit.agents.conftest import ChatServer, completion, delta, failure, stream

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


class Naps:
    """Instead of sleeping, notes for how long."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


def client(server: ChatServer, naps: Naps | None = None, **fields: Any) -> ClientBackend:
    config = ClientConfig(base_url=fields.pop("base_url", server.url), api_key=fields.pop("api_key", "sk-1"), **fields)
    return ClientBackend("m", config, sleep=naps or Naps())


def request(*messages: Message, **fields: Any) -> GenerationRequest:
    sampling = fields.pop("sampling", SamplingParams())
    return GenerationRequest(
        "r", "s", messages or (text_message("user", "hi"),), fields.pop("tools", ()), sampling, **fields
    )


async def test_plain_turn(server: ChatServer) -> None:
    server.say(completion("hello", finish="length"))
    sampling = SamplingParams(temperature=0.3, top_p=0.9, max_tokens=40, seed=5, extra={"top_k": 3})
    backend = client(server, extra_body={"top_k": 1, "min_p": 0.1})
    turn = await backend.generate(request(sampling=sampling, tools=[TOOL]))
    await backend.close()
    await backend.close()
    assert (turn.text, turn.finish_reason, turn.tool_calls, turn.token_ids) == ("hello", "length", None, None)
    assert (turn.prompt_tokens, turn.completion_tokens) == (7, 3)
    (body,) = server.bodies
    sent = {"temperature": 0.3, "top_p": 0.9, "max_completion_tokens": 40, "seed": 5, "top_k": 3, "min_p": 0.1}
    assert sent.items() <= body.items()
    assert body["tools"] == [TOOL]
    assert server.keys == ["Bearer sk-1"]


async def test_settings_go_before_the_rollouts_own(server: ChatServer) -> None:
    await client(server, temperature=0.0, max_new_tokens=9).generate(request())
    assert (server.bodies[0]["temperature"], server.bodies[0]["max_completion_tokens"]) == (0.0, 9)


async def test_a_local_server_needs_no_key_and_may_be_named_by_its_listening_address(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    backend = ClientBackend("m", ClientConfig(base_url=server.url.replace("127.0.0.1", "0.0.0.0")))
    assert (await backend.generate(request())).text == "ok"
    assert backend.codec is None


async def test_native_tool_calls(server: ChatServer) -> None:
    good = {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
    broken = {"id": "", "type": "function", "function": {"name": "look", "arguments": '{"x": '}}
    listed = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "[1]"}}
    server.say(completion(None, finish="tool_calls", calls=[good, broken, listed]))
    turn = await client(server).generate(request(tools=[TOOL]))
    assert turn.tool_calls is not None
    assert turn.tool_calls[0] == ToolCall("a", "look", {"x": 1})
    assert (turn.tool_calls[1].id, turn.tool_calls[1].arguments) == ("call_1", {})
    assert "invalid JSON" in str(turn.tool_calls[1].error)
    assert "not a JSON object" in str(turn.tool_calls[2].error)
    assert (turn.text, turn.finish_reason) == ("", "stop")


async def test_native_arguments_with_a_slip_are_repaired(server: ChatServer) -> None:
    slip = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{'x': 1,}"}}
    server.say(completion(None, finish="tool_calls", calls=[slip]))
    turn = await client(server).generate(request(tools=[TOOL]))
    assert turn.tool_calls == (ToolCall("a", "look", {"x": 1}),)


async def test_images_are_png_and_those_of_tools_follow_in_a_user_message(server: ChatServer) -> None:
    images = {"img_a": Image.new("RGB", (5, 4), "red"), "mask_b": Image.new("L", (3, 3), 255)}
    loaded: list[str] = []

    def load(handle: str) -> Image.Image:
        loaded.append(handle)
        return images[handle]

    call = ToolCall("1", "look"), ToolCall("2", "look")
    await client(server).generate(
        request(
            Message("user", (ImagePart("img_a"), TextPart("Edit it."))),
            Message("assistant", (), call),
            Message("tool", (TextPart("made mask_1"), ImagePart("mask_b")), tool_call_id="1"),
            Message("tool", (TextPart("made img_1"), ImagePart("img_a")), tool_call_id="2"),
            text_message("user", "Go on."),
            load_image=load,
        )
    )
    user, _, first, second, shown, last = server.bodies[0]["messages"]
    assert sorted(loaded) == ["img_a", "mask_b"]
    assert (first["role"], first["content"], first["tool_call_id"]) == ("tool", "made mask_1", "1")
    assert (second["role"], second["content"]) == ("tool", "made img_1")
    assert shown["role"] == "user"
    assert [part.get("text", "").strip() for part in shown["content"][1:]] == ["made mask_1", "", "made img_1", ""]
    assert last["content"] == "Go on."
    head, _, data = user["content"][0]["image_url"]["url"].partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (head, image.format, image.size) == ("data:image/png;base64", "PNG", (5, 4))
    assert shown["content"][4]["image_url"] == user["content"][0]["image_url"]


async def test_images_without_a_loader_are_an_error(server: ChatServer) -> None:
    with pytest.raises(BackendError, match="no load_image"):
        await client(server).generate(request(Message("user", (ImagePart("img_a"),))))


async def heard(backend: ClientBackend, asked: GenerationRequest) -> tuple[Any, list[str]]:
    deltas: list[str] = []

    async def listen(text: str) -> None:
        deltas.append(text)

    return await backend.generate(asked, listen), deltas


async def test_streamed_text_and_calls(server: ChatServer) -> None:
    first = {"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"x"'}}
    server.say(
        stream(
            delta(role="assistant", content=""),
            delta(content="Let me "),
            delta(content="look."),
            delta(tool_calls=[first]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": ": 2}"}}]),
            delta(tool_calls=[{"index": 1, "id": "b", "function": {"name": "see", "arguments": ""}}]),
            delta(finish="tool_calls"),
            '{"id": "c", "choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}}',
        )
    )
    turn, deltas = await heard(client(server), request())
    assert deltas == ["Let me ", "look."]
    assert (turn.text, turn.finish_reason) == ("Let me look.", "stop")
    assert turn.tool_calls == (ToolCall("a", "look", {"x": 2}), ToolCall("b", "see"))
    assert (turn.prompt_tokens, turn.completion_tokens) == (4, 6)
    assert server.bodies[0]["stream"] is True


async def test_deltas_come_while_the_server_still_speaks(server: ChatServer) -> None:
    server.say(stream(delta(content="a"), delta(content="b", finish="stop"), gap=0.2))
    times: list[float] = []

    async def listen(_: str) -> None:
        times.append(asyncio.get_running_loop().time())

    await client(server).generate(request(), listen)
    assert times[1] - times[0] > 0.1


async def test_a_stream_that_breaks_is_tried_again_only_before_its_first_delta(server: ChatServer) -> None:
    error = '{"error": {"message": "overloaded", "code": 503}}'
    server.say(stream(error), stream(done=False), stream(delta(content="fine", finish="stop")))
    turn, deltas = await heard(client(server), request())
    assert (turn.text, deltas, len(server.bodies)) == ("fine", ["fine"], 3)
    for broken in (stream(delta(content="half"), done=False), stream(delta(content="half"), error)):
        server.bodies.clear()
        server.say(broken)
        with pytest.raises(BackendError) as fault:
            await heard(client(server), request())
        assert (fault.value.retryable, len(server.bodies)) == (True, 1)


async def test_a_fault_of_the_listener_is_its_own(server: ChatServer) -> None:
    server.say(stream(delta(content="a", finish="stop")))

    async def listen(_: str) -> None:
        raise KeyError("console")

    with pytest.raises(KeyError):
        await client(server).generate(request(), listen)


async def test_rate_limits_and_server_faults_are_tried_again(server: ChatServer) -> None:
    naps = Naps()
    server.say(
        failure(429, headers={"retry-after": "0"}),
        failure(429, headers={"retry-after": "7"}),
        failure(500),
        failure(503),
    )
    assert (await client(server, naps).generate(request())).text == "ok"
    assert len(server.bodies) == 5
    assert naps.taken[0] == 0.0
    assert 7.0 <= naps.taken[1] <= 7.7
    assert 1.0 <= naps.taken[2] <= 2.0 <= naps.taken[3] <= 4.0


async def test_retries_run_out(server: ChatServer) -> None:
    server.say(*[failure(500, "boom")] * 9)
    with pytest.raises(BackendError, match=r"answered 500: .*boom") as fault:
        await client(server, max_retries=2).generate(request())
    assert (fault.value.retryable, len(server.bodies)) == (True, 3)


@pytest.mark.parametrize(
    ("reply", "retryable", "message"),
    [
        (failure(401, "bad key sk-1"), False, "check api_key"),
        (failure(404), False, "this address ends in /v1"),
        (failure(400, "too long"), False, "too long"),
        (failure(409, "busy"), False, "answered 409"),
        (failure(422, "no field"), False, "answered 422"),
        (failure(400, "above 2", code="decimal_above_max_value", param="temperature"), False, "above 2"),
        (failure(429, "pay", code="insufficient_quota"), False, "pay"),
        (failure(429, headers={"retry-after": "3600"}), True, "asks to wait 3600 s"),
        (lambda _: Response("<html>hi</html>", media_type="text/html"), False, "no chat completion"),
        (lambda _: Response('{"created": %s}' % ("9" * 5000), media_type="application/json"), False, "no chat compl"),
        (lambda _: Response("{", media_type="application/json"), False, "no chat completion"),
        (lambda _: Response('{"choices": []}', media_type="application/json"), False, "no chat completion"),
        (lambda _: Response('{"choices": [{}]}', media_type="application/json"), False, "no chat completion"),
    ],
)
async def test_what_is_not_tried_again(server: ChatServer, reply: Any, retryable: bool, message: str) -> None:
    server.say(reply)
    with pytest.raises(BackendError, match=message) as fault:
        await client(server).generate(request())
    assert (fault.value.retryable, len(server.bodies)) == (retryable, 1)
    assert "sk-1" not in str(fault.value)


async def test_a_piece_of_a_stream_that_is_no_json_is_no_completion(server: ChatServer) -> None:
    async def hear(text: str) -> None:
        assert text

    for piece in ('{"created": %s}' % ("9" * 5000), "{", "[" * 300_000):
        server.say(stream(piece))
        with pytest.raises(BackendError, match="no chat completion"):
            await client(server).generate(request(), hear)


@pytest.mark.parametrize(
    ("key", "told"), [("a", "a bad day at sk-1"), ("sk-1", "a bad day at ***"), ("x" * 40, "a bad day at sk-1")]
)
async def test_a_key_is_left_out_of_messages_unless_it_is_a_mere_letter(
    server: ChatServer, key: str, told: str
) -> None:
    server.say(failure(400, "a bad day at sk-1"))
    with pytest.raises(BackendError) as fault:
        await client(server, api_key=SecretStr(key)).generate(request())
    assert told in str(fault.value)


@pytest.mark.parametrize("key", ["sk-abcdef\n", " sk-abcdef", "sk-'abc\\def"])
async def test_no_form_of_a_key_that_a_server_repeats_is_in_the_error(
    server: ChatServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server.say(failure(400, f"bad header {key!r}: {key} is no key", code=f"bad {key}"))
    backend = ClientBackend("m", ClientConfig(base_url=server.url))
    with pytest.raises(BackendError, match="bad header") as fault:
        await backend.generate(request())
    assert server.keys == [f"Bearer {key.strip()}"]
    assert key.strip() not in str(fault.value)
    assert repr(key.strip())[1:-1] not in str(fault.value)


@pytest.mark.parametrize("status", [0, 400, 200])
async def test_the_password_of_an_address_is_in_no_error(server: ChatServer, status: int) -> None:
    server.say(
        failure(400) if status == 400 else completion("", finish="") if status == 0 else (lambda _: Response("{"))
    )
    port = "1" if status == 0 else server.url.split(":")[2].split("/")[0]
    backend = client(server, base_url=f"http://me:pa55word@127.0.0.1:{port}/v1", max_retries=0)
    with pytest.raises(BackendError, match=r"http://\*\*\*@127\.0\.0\.1") as fault:
        await backend.generate(request())
    assert "pa55word" not in str(fault.value)


async def test_a_slow_reply_times_out(server: ChatServer) -> None:
    def slow(body: dict[str, Any]) -> Response:
        time.sleep(0.6)
        return completion()(body)

    server.say(slow)
    with pytest.raises(BackendError, match=r"within 0.2 s") as fault:
        await client(server, timeout=0.2, max_retries=0).generate(request())
    assert fault.value.retryable


async def test_nobody_listens(server: ChatServer) -> None:
    naps = Naps()
    with pytest.raises(BackendError, match="cannot reach") as fault:
        await client(server, naps, base_url="http://127.0.0.1:9/v1", max_retries=1).generate(request())
    assert (fault.value.retryable, len(naps.taken)) == (True, 1)


async def test_a_parameter_that_the_model_refuses_is_left_out_from_then_on(server: ChatServer) -> None:
    server.say(failure(400, "no", code="unsupported_value", param="temperature"))
    backend = client(server, max_retries=0)
    await backend.generate(request())
    await backend.generate(request())
    assert ["temperature" in body for body in server.bodies] == [True, False, False]


CONVERSATION = (
    text_message("system", "You edit."),
    Message("user", (ImagePart("img_a"), TextPart("Look."))),
    Message("assistant", (TextPart("Yes."),), (ToolCall("1", "look", {"x": "ü"}), ToolCall("2", "look"))),
    Message("tool", (TextPart("one "), ImagePart("img_a")), tool_call_id="1"),
    Message("tool", (TextPart("two"),), tool_call_id="2"),
)
NO_TOOLS = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'


@pytest.mark.parametrize(
    "refusal",
    [
        failure(400, f"{NO_TOOLS} (key sk-1)"),
        failure(400, "registry.ollama.ai/library/x does not support tools"),
        failure(404, "No endpoints found that support tool use."),
        failure(500, "tools param requires --jinja flag"),
        failure(422, "`tools` are not supported"),
    ],
)
async def test_a_server_without_tools_is_told_of_them_in_words(
    server: ChatServer, refusal: Any, caplog: pytest.LogCaptureFixture
) -> None:
    call = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
    server.say(refusal, completion(call), completion(call))
    backend = client(server, max_retries=0)
    asked = request(*CONVERSATION, tools=[TOOL], load_image=lambda _: Image.new("RGB", (2, 2)))
    turns = [await backend.generate(asked), await backend.generate(asked)]
    assert "sk-1" not in caplog.text
    assert "described in the system message" in caplog.text
    # None, so that the rollout reads the calls from the text.
    assert [(turn.text, turn.tool_calls) for turn in turns] == [(call, None)] * 2
    assert ["tools" in body for body in server.bodies] == [True, False, False]
    system, user, assistant, results = server.bodies[2]["messages"]
    assert system["role"] == "system"
    assert system["content"].startswith("You edit.\n\nYou can call tools.")
    assert json.dumps(TOOL) in system["content"]
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    assert assistant["content"] == (
        'Yes.\n<tool_call>\n{"name": "look", "arguments": {"x": "ü"}}\n</tool_call>'
        '\n<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    )
    assert "tool_calls" not in assistant
    assert results["role"] == "user"
    assert [part.get("text", "") for part in results["content"]] == [
        *("<tool_response>\n", "one ", "", "\n</tool_response>\n"),
        *("<tool_response>\n", "two", "\n</tool_response>\n"),
    ]
    assert parse_tool_calls(assistant["content"]).calls[0].arguments == {"x": "ü"}


async def test_tools_in_words_from_the_start_and_without_a_system_message(server: ChatServer) -> None:
    await client(server, tools_as_text=True).generate(request(tools=[TOOL]))
    (body,) = server.bodies
    assert "tools" not in body
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("refusal", "extra"),
    [
        (failure(400, "Invalid schema for function 'look'", param="tools"), {}),
        (failure(400, NO_TOOLS), {"tool_choice": "required"}),
    ],
)
async def test_other_faults_with_tools_are_not_hidden(server: ChatServer, refusal: Any, extra: Any) -> None:
    server.say(refusal)
    with pytest.raises(BackendError, match="answered 400"):
        await client(server, extra_body=extra).generate(request(tools=[TOOL]))
    assert len(server.bodies) == 1


async def test_requests_a_minute_count_every_attempt(server: ChatServer) -> None:
    now, waits = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        waits.append(seconds)
        now += seconds

    config = ClientConfig(base_url=server.url, max_requests_per_minute=6)
    backend = ClientBackend("m", config, clock=lambda: now, sleep=sleep)
    server.say(failure(429, headers={"retry-after": "0"}))
    await backend.generate(request())
    await backend.generate(request())
    assert (now, len(server.bodies)) == (20.0, 3)


@pytest.mark.slow
async def test_sixty_requests_at_six_a_minute_take_ten_minutes(server: ChatServer) -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        await asyncio.sleep(0)
        now += seconds

    config = ClientConfig(base_url=server.url, max_requests_per_minute=6)
    backend = ClientBackend("m", config, clock=lambda: now, sleep=sleep)
    turns = await asyncio.gather(*(backend.generate(request()) for _ in range(60)))
    await backend.close()
    assert ([turn.text for turn in turns], len(server.bodies)) == (["ok"] * 60, 60)
    assert now == 590.0


def test_one_backend_for_one_loop_after_another(server: ChatServer, caplog: pytest.LogCaptureFixture) -> None:
    backend = client(server, max_requests_per_minute=60000)

    async def burst() -> list[str]:
        return [turn.text for turn in await asyncio.gather(*(backend.generate(request()) for _ in range(3)))]

    for _ in range(2):
        assert asyncio.run(burst()) == ["ok"] * 3
        gc.collect()
    asyncio.run(backend.close())
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def test_cancelling_stops_the_request(server: ChatServer) -> None:
    server.say(stream(*[delta(content="x")] * 50, gap=0.02))
    started = asyncio.Event()

    async def listen(_: str) -> None:
        started.set()

    task = asyncio.create_task(client(server).generate(request(), listen))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(server.bodies) == 1


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_thoughts_that_a_server_sends_apart_are_put_back_before_the_answer(
    server: ChatServer, field: str
) -> None:
    def apart(content: str | None, finish: str = "stop", **fields: Any) -> Any:
        message = {"role": "assistant", "content": content, field: "hm", **fields}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        body = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return lambda _: JSONResponse(body)

    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    server.say(apart("yes"), apart(None, "tool_calls", tool_calls=[call]), apart(None, "length"))
    turns = [await client(server).generate(request(tools=[TOOL])) for _ in range(3)]
    # A thought that was cut off is not made to look whole.
    assert [turn.text for turn in turns] == ["<think>hm</think>yes", "<think>hm</think>", "<think>hm"]
    assert turns[1].tool_calls == (ToolCall("a", "look"),)


async def test_thoughts_that_a_server_streams_apart_are_put_back_before_the_answer(server: ChatServer) -> None:
    server.say(
        stream(
            delta(role="assistant", content=""),
            delta(reasoning_content="h"),
            delta(reasoning_content="m"),
            delta(content="yes"),
            delta(content="!"),
            delta(finish="stop"),
        ),
        stream(delta(reasoning="hm"), delta(finish="tool_calls")),
    )
    turn, deltas = await heard(client(server), request())
    assert (turn.text, deltas) == ("<think>hm</think>yes!", ["<think>h", "m", "</think>yes", "!"])
    assert (await heard(client(server), request()))[0].text == "<think>hm</think>"


HALF = "\ud83d"


async def test_half_a_surrogate_pair_anywhere_in_a_conversation_ends_no_turn(server: ChatServer) -> None:
    server.say(completion("fine"))
    result = Message("tool", (TextPart(f"seen {HALF}"),), tool_call_id="a")
    call = ToolCall("a", "look", {"at": f"that {HALF}"})
    said = Message("assistant", (TextPart(f"well {HALF}"),), tool_calls=(call,))
    turn = await client(server).generate(request(text_message("user", f"hi {HALF}"), said, result))
    assert turn.text == "fine"
    user, assistant, tool = server.bodies[0]["messages"]
    assert "hi ?" in str(user)
    assert "well ?" in str(assistant)
    assert "seen ?" in str(tool)


async def test_a_character_that_comes_in_two_halves_is_whole_and_a_half_alone_is_a_question_mark(
    server: ChatServer,
) -> None:
    call = {"index": 0, "id": "a", "function": {"name": "look", "arguments": '{"x": "\ud83d'}}
    rest = {"index": 0, "function": {"arguments": '\ude00"}'}}
    server.say(
        stream(
            delta(content="a \ud83d"),
            delta(content="\ude00 b \ude00"),
            delta(tool_calls=[call]),
            delta(tool_calls=[rest]),
            delta(finish="tool_calls"),
        )
    )
    turn, _ = await heard(client(server), request())
    assert turn.text == "a \U0001f600 b ?"
    assert turn.tool_calls is not None
    assert turn.tool_calls[0].arguments == {"x": "\U0001f600"}


async def test_a_web_page_in_place_of_a_stream_is_no_chat_server(server: ChatServer) -> None:
    server.say(lambda _: Response("<html>Sign in</html>", media_type="text/html"))
    with pytest.raises(BackendError, match="sent no chat completion; check that this address ends in /v1"):
        await heard(client(server), request())
    assert len(server.bodies) == 1


async def test_the_header_of_a_password_that_a_server_repeats_is_in_no_error(server: ChatServer) -> None:
    header = base64.b64encode(b"me:hunter2").decode()
    server.say(failure(401, f"who is Basic {header}?"))
    address = server.url.replace("://", "://me:hunter2@")
    with pytest.raises(BackendError, match=r"Basic \*\*\*") as fault:
        await client(server, base_url=address).generate(request())
    assert header not in str(fault.value)
