"""The scripted policy behaves as a real one does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agentfly.agents.llm_backends import Generation, GenerationRequest, SamplingParams, ScriptedBackend
from agentfly.errors import BackendError
from agentfly.messages import text_message
from agentfly.templates import ChatCodec


def request(session: str = "s", max_tokens: int = 512) -> GenerationRequest:
    return GenerationRequest(
        "r", session, [text_message("user", "hi")], [], SamplingParams(max_tokens=max_tokens), prompt_ids=(1, 2, 3)
    )


async def test_each_session_reads_the_script_from_its_start() -> None:
    backend = ScriptedBackend(["one", "two"])
    asked = [request("a"), request("b"), request("a"), request("b")]
    assert [(await backend.generate(r)).text for r in asked] == ["one", "one", "two", "two"]
    with pytest.raises(BackendError, match="turn 3 was asked for, but the script has 2 texts"):
        await backend.generate(request("a"))
    await backend.close()
    assert (await backend.generate(request("a"))).text == "one"


async def test_functions_plain_and_async() -> None:
    async def answer(asked: GenerationRequest) -> Generation:
        return Generation(asked.messages[-1].text.upper(), finish_reason="length")

    assert (await ScriptedBackend(answer).generate(request())) == Generation("HI", finish_reason="length")
    assert (await ScriptedBackend(lambda asked: asked.session_id).generate(request("z"))).text == "z"


async def test_deltas_join_to_the_text() -> None:
    heard: list[str] = []

    async def listen(text: str) -> None:
        heard.append(text)

    text = '  Look:\n<tool_call>{"name": "x"}</tool_call> '
    await ScriptedBackend([text]).generate(request(), listen)
    assert "".join(heard) == text
    assert len(heard) > 2


async def test_latency_may_depend_on_the_request() -> None:
    backend = ScriptedBackend(["x"], latency=lambda asked: 0.05 if asked.session_id == "slow" else 0.0)
    start = time.monotonic()
    await backend.generate(request("fast"))
    between = time.monotonic()
    await backend.generate(request("slow"))
    assert between - start < 0.05 <= time.monotonic() - between


@pytest.fixture(scope="module")
def codec(tiny_policy: Path) -> ChatCodec:
    return ChatCodec.from_pretrained(str(tiny_policy))


async def test_token_level_turn_ends_with_the_end_token(codec: ChatCodec) -> None:
    text = '<tool_call>{"name": "give_answer"}</tool_call>'
    turn = await ScriptedBackend([text], codec=codec).generate(request())
    assert turn.token_ids is not None
    assert turn.token_ids[-1] in codec.eos_ids
    assert turn.text == text == codec.decode(turn.token_ids)
    assert turn.logprobs == (0.0,) * len(turn.token_ids)
    assert (turn.finish_reason, turn.prompt_tokens) == ("stop", 3)


async def test_token_level_turn_is_cut_at_max_tokens(codec: ChatCodec) -> None:
    turn = await ScriptedBackend(["one two three four five six"], codec=codec).generate(request(max_tokens=3))
    assert turn.token_ids is not None
    assert (len(turn.token_ids), turn.finish_reason) == (3, "length")
    assert not codec.eos_ids.intersection(turn.token_ids)
    assert turn.text == codec.decode(turn.token_ids)
