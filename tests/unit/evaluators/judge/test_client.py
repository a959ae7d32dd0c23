"""The judge's requests: refused parameters, and what gateways send in an answer of status 200."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentfly.errors import ConfigError, EvaluatorError
from tests.unit.evaluators.judge.test_judge import SAMPLE, WAITS, make, scored
from tests.unit.evaluators.scripted_judge import Reply, fault, in_turn, judge, said


async def test_the_limit_of_tokens_is_sent_by_the_name_that_the_server_takes() -> None:
    words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."

    def script(request: dict[str, Any], number: int) -> Reply:
        return fault(400, words, "unsupported_parameter") if "max_tokens" in request else said(score=33)

    with judge(script) as server:
        tested = make(server, max_tokens=50)
        assert [(await tested.evaluate(SAMPLE)).value for _ in range(2)] == [33.0, 33.0]
    assert [request.get("max_completion_tokens") for request in server.requests] == [None, 50, 50]


async def test_content_as_a_list_of_parts_is_read_without_its_thoughts() -> None:
    thought = {"type": "thinking", "thinking": json.dumps({"feedback": "", "score": 1})}
    parts: Any = [thought, {"type": "text", "text": json.dumps({"feedback": "", "score": 70})}]
    with judge(Reply(parts)) as server:
        assert (await scored(server)).value == 70.0


@pytest.mark.parametrize("error", [{"message": "busy", "code": 503}, {"message": "slow", "code": 429}, "it broke"])
async def test_a_passing_error_in_status_200_is_tried_again(error: Any) -> None:
    with judge(in_turn(Reply(body=json.dumps({"error": error}).encode()), said(score=60))) as server:
        assert (await scored(server)).value == 60.0
    assert len(WAITS) == 1


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        ({"message": "who?", "code": 401}, ConfigError, "refuses the key"),
        ({"message": "which?", "code": 404}, ConfigError, "not served"),
        ({"message": "empty", "code": 402}, EvaluatorError, "no quota left"),
        ({"message": "no such size", "code": 400}, EvaluatorError, "no such size"),
    ],
)
async def test_a_lasting_error_in_status_200_is_not_tried_again(
    error: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with judge(Reply(body=json.dumps({"error": error}).encode())) as server:
        with pytest.raises(kind, match=words):
            await scored(server)
        assert len(server.requests) == 1
