"""Errors and refusals of gateways, whatever the status they come with."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi import Response
from fastapi.responses import JSONResponse

from agentfly.agents import ImageEditingAgent, StopReason
from agentfly.agents.llm_backends import SamplingParams
from agentfly.errors import BackendError
from agentfly.training.verl.chain_faults import stopped_by
from tests.unit.agents.conftest import ChatServer, changed, completion, delta, failure, said, stream
from tests.unit.agents.llm_backends.test_client import Naps, client, heard, request


@pytest.mark.parametrize("error", [{"message": "busy", "code": 503}, {"message": "slow", "code": 429}, "it broke"])
async def test_a_passing_error_in_status_200_is_tried_again(server: ChatServer, error: Any) -> None:
    server.say(changed(choices=None, error=error), changed(error=error))
    naps = Naps()
    assert (await client(server, naps).generate(request())).text == "ok"
    assert (len(server.bodies), len(naps.taken)) == (3, 2)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"message": "who?", "code": 401}, "answered 401: who.*check api_key"),
        ({"message": "pay", "code": 402}, "answered 402: pay"),
        ({"message": "which?", "code": 404}, "check the model name"),
        ({"message": "Provider returned error", "code": 400, "metadata": {"raw": "too long"}}, "400: .*too long"),
        ({"message": "pay", "code": "insufficient_quota"}, "pay"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_lasting_error_in_status_200_is_not_tried_again(
    server: ChatServer, error: dict[str, Any], message: str, streamed: bool
) -> None:
    server.say(stream(json.dumps({"error": error})) if streamed else changed(choices=None, error=error))
    with pytest.raises(BackendError, match=message) as fault:
        await (heard(client(server), request()) if streamed else client(server).generate(request()))
    assert (fault.value.retryable, len(server.bodies)) == (False, 1)


async def test_an_error_of_one_choice_is_an_error(server: ChatServer) -> None:
    wrong = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "error": {"message": "bad", "code": 400}}
    server.say(stream(wrong))
    with pytest.raises(BackendError, match="answered 400: bad"):
        await heard(client(server), request())


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("finish", ["error", "ERROR", "insufficient_system_resource"])
async def test_a_turn_that_the_server_failed_to_give_is_no_turn_of_the_policy(
    server: ChatServer, streamed: bool, finish: str
) -> None:
    empty = stream(delta(content="", finish=finish)) if streamed else changed(**said("", finish))
    server.say(empty, empty, empty)
    asked = client(server, max_retries=2)
    with pytest.raises(BackendError, match=rf"the server broke off \(finish_reason '{finish}'\)") as fault:
        await (heard(asked, request()) if streamed else asked.generate(request()))
    assert (fault.value.retryable, len(server.bodies)) == (True, 3)


async def test_an_answer_that_the_server_broke_off_is_tried_again_unless_it_was_heard(server: ChatServer) -> None:
    server.say(changed(**said("half", "error")), completion(), stream(delta(content="half"), delta(finish="error")))
    assert (await client(server).generate(request())).text == "ok"
    with pytest.raises(BackendError, match="broke off"):
        await heard(client(server), request())
    assert len(server.bodies) == 3


async def test_a_failed_server_is_a_failed_chain(server: ChatServer) -> None:
    server.say(changed(**said("", "error")))
    agent = ImageEditingAgent("m", backend=client(server, max_retries=0))
    (trajectory,) = await agent.run([{"role": "user", "content": "x"}])
    await agent.close()
    assert trajectory.stop_reason is StopReason.BACKEND_ERROR
    assert stopped_by(trajectory.stop_reason) == "backend"
    assert trajectory.turns == []


async def test_a_stream_under_the_name_of_json_is_read(server: ChatServer) -> None:
    events = stream(delta(content="one "), delta(content="two", finish="stop"))

    def misnamed(body: dict[str, Any]) -> Response:
        reply = events(body)
        reply.headers["content-type"] = "application/json"
        return reply

    server.say(misnamed)
    turn, deltas = await heard(client(server), request())
    assert (turn.text, deltas) == ("one two", ["one ", "two"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"error": {"message": "pay", "code": 402}}, "answered 402: pay"),
        ({"choices": []}, "no chat completion"),
    ],
)
async def test_a_stream_that_comes_as_one_piece_of_json_is_read(
    server: ChatServer, fields: dict[str, Any], message: str
) -> None:
    server.say(completion("whole"), lambda _: JSONResponse(fields))
    turn, deltas = await heard(client(server), request())
    assert (turn.text, deltas, turn.prompt_tokens) == ("whole", ["whole"], 7)
    with pytest.raises(BackendError, match=message):
        await heard(client(server), request())
    assert len(server.bodies) == 2


@pytest.mark.parametrize("body", [b'{"a": "\xff"}', b"[" * 200_000], ids=["no text", "nested without end"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_body_that_cannot_be_read_is_a_fault_of_the_server(
    server: ChatServer, body: bytes, streamed: bool
) -> None:
    if streamed:
        server.say(lambda _: Response(b"data: " + body + b"\n\n", media_type="text/event-stream"))
    else:
        server.say(lambda _: Response(body, media_type="application/json"))
    with pytest.raises(BackendError, match="no chat completion"):
        await (heard(client(server), request()) if streamed else client(server).generate(request()))


async def test_a_top_p_of_1_is_not_sent(server: ChatServer) -> None:
    await client(server).generate(request())
    await client(server).generate(request(sampling=SamplingParams(top_p=0.5)))
    assert [body.get("top_p") for body in server.bodies] == [None, 0.5]


async def test_a_limit_of_the_users_own_is_the_only_one(server: ChatServer) -> None:
    await client(server, extra_body={"max_tokens": 7}).generate(request())
    assert (server.bodies[0]["max_tokens"], "max_completion_tokens" in server.bodies[0]) == (7, False)


async def test_refused_parameters_are_renamed_or_left_out_from_then_on(
    server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    def strict(body: dict[str, Any]) -> Response:
        unknown = body.keys() - {"model", "messages", "temperature", "max_tokens", "stream"}
        if (name := min(unknown, default=None)) is None:
            return stream(delta(content="ok", finish="stop"))(body)
        found = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted (sk-1)"}]
        return JSONResponse({"object": "error", "message": {"detail": found}, "param": None, "code": None}, 422)

    server.say(*[strict] * 6)
    backend, sampling = client(server, max_retries=0), SamplingParams(top_p=0.9, seed=3, max_tokens=40)
    turns = [await heard(backend, request(sampling=sampling)) for _ in range(2)]
    assert [turn.text for turn, _ in turns] == ["ok", "ok"]
    assert len(server.bodies) == 6
    assert server.bodies[-1].keys() == {"model", "messages", "temperature", "max_tokens", "stream"}
    assert server.bodies[-1]["max_tokens"] == 40
    assert "body.seed: Extra inputs are not permitted" in caplog.text
    assert "sk-1" not in caplog.text


async def test_a_refusal_in_status_200_is_heeded_too(server: ChatServer) -> None:
    words = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
    server.say(
        changed(choices=None, error={"message": "Provider returned error", "code": 400, "metadata": {"raw": words}})
    )
    backend = client(server, max_retries=0, temperature=0.7)
    assert (await backend.generate(request(sampling=SamplingParams(top_p=0.9)))).text == "ok"
    assert [sorted({"temperature", "top_p"} & body.keys()) for body in server.bodies] == [
        ["temperature", "top_p"],
        ["temperature"],
    ]


async def test_chains_in_flight_share_what_is_learned(server: ChatServer) -> None:
    def no_seed(body: dict[str, Any]) -> Response:
        return (failure(400, "seed is not supported") if "seed" in body else completion())(body)

    server.say(*[no_seed] * 20)
    backend, sampling = client(server, max_retries=0), SamplingParams(seed=3)
    turns = await asyncio.gather(*(backend.generate(request(sampling=sampling)) for _ in range(5)))
    assert [turn.text for turn in turns] == ["ok"] * 5


async def test_a_users_own_field_that_is_refused_is_an_error_with_the_reason(server: ChatServer) -> None:
    detail = [{"type": "extra_forbidden", "loc": ["body", "top_k"], "msg": "Extra inputs are not permitted"}]
    server.say(lambda _: JSONResponse({"detail": detail}, 422))
    with pytest.raises(BackendError, match=r"answered 422: .*body\.top_k: Extra inputs are not permitted"):
        await client(server, extra_body={"top_k": 3}).generate(request())
    assert len(server.bodies) == 1
