"""The mean of what a judge might have said, for tokenizers of whole numbers and of single digits."""

from __future__ import annotations

import math
import time

import pytest

from agentfly.evaluators.judge.replies import BrokenReply, Token, expected_rating, read_reply, read_tokens
from agentfly.evaluators.judge.schemes import SCHEMES

QUESTION = SCHEMES["simple"].questions[0]


def token(text: str, **others: float) -> Token:
    """A sampled token; its own chance is what the others leave."""
    rest = 1.0 - sum(others.values())
    chances = {text: rest, **others}
    return Token(text, tuple((t, math.log(p)) for t, p in chances.items() if p > 0))


def reply(*number: Token, key: str = "score") -> list[Token]:
    return [token('{"feedback": "x 3", "other": 5, '), token(f'"{key}"'), token(":"), *number]


def test_a_whole_number_a_token() -> None:
    tokens = reply(token(" 7", **{" 8": 0.3, " 9": 0.1, " nine": 0.05}), token("}"))
    assert expected_rating(tokens, "score", 10) == pytest.approx((7 * 0.55 + 8 * 0.3 + 9 * 0.1) / 0.95)


def test_a_certain_judge_gives_its_own_number() -> None:
    assert expected_rating(reply(token("7"), token("}")), "score", 10) == pytest.approx(7.0)


def test_ten_of_ten_in_two_tokens() -> None:
    tokens = reply(token("1", **{"9": 0.4}), token("0", **{"}": 0.25}), token("}"))
    assert expected_rating(tokens, "score", 10) == pytest.approx(0.4 * 9 + 0.6 * (0.75 * 10 + 0.25 * 1))


def test_one_that_might_have_gone_on_to_ten() -> None:
    tokens = reply(token("1"), token("}", **{"0": 0.2}))
    assert expected_rating(tokens, "score", 10) == pytest.approx(0.8 * 1 + 0.2 * 10)


def test_two_digits_of_a_hundred() -> None:
    tokens = reply(token("8", **{"9": 0.5}), token("5", **{"7": 0.5}), token("}"))
    assert expected_rating(tokens, "score", 100) == pytest.approx(0.5 * 94.5 + 0.5 * (0.5 * 85 + 0.5 * 87))


def test_a_number_that_shares_its_token() -> None:
    tokens = [token('{"feedback": "", "score'), token('": 4', **{'": 6': 0.5}), token("}")]
    assert expected_rating(tokens, "score", 10) == pytest.approx(5.0)


def test_numbers_off_the_scale_do_not_count() -> None:
    tokens = reply(token("9", **{"55": 0.3}), token("}"))
    assert expected_rating(tokens, "score", 10) == pytest.approx(9.0)


@pytest.mark.parametrize("digits", [9, 400, 3000])
def test_a_number_without_end_has_no_mean(digits: int) -> None:
    assert expected_rating(reply(*(token("9", **{"1": 0.3}) for _ in range(digits)), token("}")), "score", 10) is None


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [
        (None, []),
        ({"content": None}, []),
        ({"content": "7"}, []),
        ({"content": [None, "7", {"token": None, "logprob": -1.0}]}, []),
        ({"content": [{"token": "7", "logprob": None, "top_logprobs": None}]}, [Token("7", ())]),
        ({"content": [{"token": "7", "logprob": -1.0, "top_logprobs": [None, {"token": "8", "logprob": "x"}]}]}, None),
        ({"content": [{"token": "7", "logprob": math.nan}]}, [Token("7", ())]),
        ({"content": [{"token": "7", "logprob": 1000}]}, [Token("7", (("7", 0.0),))]),
        ({"content": [{"token": "7", "logprob": -(10**400)}]}, [Token("7", (("7", -1e9),))]),
    ],
)
def test_log_probs_of_another_form_are_left_out(logprobs: object, expected: list[Token] | None) -> None:
    assert read_tokens(logprobs) == ([Token("7", (("7", -1.0),))] if expected is None else expected)


@pytest.mark.parametrize(
    "text", ['{"' * 9000 + "}", '{"a":' * 30_000, "{" * 190_000, "{'a" * 60_000 + "}", '{"a":[1,' * 20_000 + "}"]
)
def test_a_hostile_reply_holds_nobody_up(text: str) -> None:
    started = time.process_time()
    with pytest.raises(BrokenReply):
        read_reply(text, QUESTION)
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        reply(token("7"), token("}"), key="another"),
        reply(token("7"), token(".5"), token("}")),
        reply(token('"high"'), token("}")),
        reply(Token("7", (("7", math.log(0.2)), ("the", math.log(0.8)))), token("}")),
    ],
    ids=["none", "another key", "no whole number", "no number", "hardly a number"],
)
def test_where_the_tokens_do_not_show_it_there_is_none(tokens: list[Token]) -> None:
    assert expected_rating(tokens, "score", 10) is None
