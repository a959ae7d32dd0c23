"""The judge behind a real loopback server: good replies become scores, broken ones are asked again or told as such."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import threading
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from agentfly.datasets.photos import load_photo
from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators import (
    CompositeEvaluator,
    EditSample,
    Evaluator,
    GuardedEvaluator,
    GuardSettings,
    NotScored,
    Score,
    close_evaluator,
    evaluate_many,
)
from agentfly.evaluators.judge import VlmJudge
from agentfly.evaluators.judge.settings import JudgeSettings
from tests.unit.evaluators.scripted_judge import Judge, Reply, fault, in_turn, judge, said, schema_name

SOURCE = load_photo("coffee.png").resize((60, 40))
RESULT = Image.eval(SOURCE, lambda value: 255 - value)
SAMPLE = EditSample("make it a negative", SOURCE, RESULT)
WAITS: list[float] = []


async def no_wait(seconds: float) -> None:
    WAITS.append(seconds)


def make(server: Judge, **settings: Any) -> VlmJudge:
    WAITS.clear()
    given = {"model": "m", "base_url": server.base_url, "scheme": "simple", "timeout": 20.0, "attempts": 3, **settings}
    # The SDK's own transport; loading certificates, of which a loopback socket needs none, takes most of a test's time.
    client = openai.AsyncOpenAI(
        api_key="k", base_url=server.base_url, max_retries=0, http_client=httpx2.AsyncClient(verify=False)
    )
    return VlmJudge(JudgeSettings(**given), client=client, sleep=no_wait)


async def scored(server: Judge, **settings: Any) -> Score:
    return await make(server, **settings).evaluate(SAMPLE)


def viescore_replies(request: dict[str, Any], number: int) -> Reply:
    if schema_name(request) == "edit_semantics":
        return said(success=9, no_over_edit=4)
    return said(natural=8, artefact_free=9)


async def test_viescore_is_the_root_of_the_product_of_both_minima() -> None:
    with judge(viescore_replies) as server:
        score = await scored(server, scheme="viescore")
    assert score.value == pytest.approx(100 * (0.4 * 0.8) ** 0.5)
    assert score.aspects == {"success": 0.9, "no_over_edit": 0.4, "natural": 0.8, "artefact_free": 0.9}
    assert score.feedback == "Fine. Fine."


async def test_the_perceptual_question_sees_the_result_alone_and_not_the_instruction() -> None:
    with judge(viescore_replies) as server:
        await scored(server, scheme="viescore")
    asked = {schema_name(request): request["messages"][0]["content"] for request in server.requests}
    kinds = {name: [part["type"] for part in content] for name, content in asked.items()}
    assert kinds == {"edit_semantics": ["image_url", "image_url", "text"], "edit_perception": ["image_url", "text"]}
    assert "negative" in asked["edit_semantics"][-1]["text"]
    assert "negative" not in asked["edit_perception"][-1]["text"]
    assert asked["edit_perception"][0] == asked["edit_semantics"][1]


async def test_images_are_bounded_and_the_result_has_the_size_of_the_source() -> None:
    with judge(said(score=70)) as server:
        sample = EditSample("x", SOURCE.resize((600, 400)), RESULT.resize((90, 90)))
        await make(server, max_pixels=15000).evaluate(sample)
    sizes = []
    for part in server.requests[0]["messages"][0]["content"][:2]:
        header, data = part["image_url"]["url"].split(",")
        assert header == "data:image/png;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
    assert sizes == [(150, 100), (150, 100)]


async def test_a_transparent_image_is_judged_on_white() -> None:
    with judge(said(score=70)) as server:
        await make(server).evaluate(EditSample("cut it out", SOURCE, Image.new("RGBA", SOURCE.size, (0, 0, 0, 0))))
    data = server.requests[0]["messages"][0]["content"][1]["image_url"]["url"].split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).getextrema() == ((255, 255),) * 3


async def test_passes_are_averaged_with_seeds_of_their_own() -> None:
    def by_seed(request: dict[str, Any], number: int) -> Reply:
        return said(score={7: 60, 10: 70, 13: 95}[request["seed"]])

    with judge(by_seed) as server:
        score = await scored(server, passes=3, seed=7, temperature=0.7)
    assert score.value == pytest.approx(75.0)
    assert score.aspects == {"score": pytest.approx(0.75)}


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"feedback": "Fine.", "score": 64}\n```',
        'Here you are: {"feedback": "Fine.", "score": 64} I hope that helps.',
        '<think>perhaps {"feedback": "?", "score": 10}</think>{"feedback": "Fine.", "score": 64}',
        "{'feedback': 'Fine.', 'score': 64,}",
        '{"feedback": "Fine.", "score": "64/100"}',
        '{"score": 64.0, "extra": {"score": 1}, "feedback": "Fine."}',
    ],
    ids=["fence", "prose", "thinking", "quotes", "fraction", "order"],
)
async def test_json_is_read_in_any_wrapping(text: str) -> None:
    with judge(Reply(text)) as server:
        score = await scored(server)
    assert (score.value, score.feedback, len(server.requests)) == (64.0, "Fine.", 1)


BROKEN = {
    "refusal": (Reply(None, refusal="I cannot judge this."), "refused"),
    "content filter": (Reply(None, finish="content_filter"), "refused"),
    "filter as 403": (fault(403, "m requires moderation, and your input was flagged"), "refused to judge"),
    "filter as 400": (fault(400, "blocked by content policy", "content_policy_violation"), "refused to judge"),
    "prose": (Reply("It looks nice, maybe 80."), "no JSON object"),
    "empty": (Reply(""), "the reply has no text"),
    "null": (Reply(None), "the reply has no text"),
    "no choices": (
        Reply(body=json.dumps({"id": "1", "choices": [], "object": "chat.completion"}).encode()),
        "no choices",
    ),
    "another shape": (Reply(body=b'{"hello": 1}'), "no choices"),
    "missing rating": (said(), "no JSON object with feedback, score"),
    "missing feedback": (Reply('{"score": 50}'), "no JSON object"),
    "cut off": (Reply('{"feedback": "Fine.", "score": 6', finish="length"), "cut off"),
    "a thought that never ends": (Reply('<think>perhaps {"feedback": "?", "score": 10}'), "no JSON object"),
    "cut off silently": (Reply('{"feedback": "Fine.", "score": 6'), "no JSON object"),
    "above the scale": (said(score=150), "not from 0 to 100"),
    "below the scale": (said(score=-1), "not from 0 to 100"),
    "another scale": (said(score="7/10"), "no number"),
    "words": (said(score="high"), "no number"),
    "truth": (said(score=True), "no number"),
    "nothing": (said(score=None), "no number"),
    "nan": (Reply('{"feedback": "Fine.", "score": NaN}'), "no number"),
    "without end": (Reply('{"feedback": "Fine.", "score": %s}' % ("9" * 400)), "not from 0 to 100"),
    "below without end": (Reply('{"feedback": "Fine.", "score": -%s}' % ("9" * 400)), "not from 0 to 100"),
    "too long for a number": (Reply('{"feedback": "Fine.", "score": %s}' % ("9" * 5000)), "no JSON object"),
    "a sum": (Reply("{'feedback': 'Fine.', 'score': 40+20}"), "no JSON object"),
    "two numbers": (Reply("{'feedback': 'Fine.', 'score': 7 or 80}"), "no JSON object"),
    "nested without end": (Reply('{"feedback": ' + "[" * 3000), "no JSON object"),
    "choices of another form": (Reply(body=b'{"choices": {"message": {"content": "x"}}}'), "no choices"),
    "a choice of words": (Reply(body=b'{"choices": ["good"]}'), "no choices"),
    "a message of words": (Reply(body=b'{"choices": [{"message": "good"}]}'), "the reply has no text"),
    "content is a number": (Reply(body=b'{"choices": [{"message": {"content": 7}}]}'), "the reply has no text"),
    "feedback is no text": (said(score=50, feedback=["a"]), "feedback is list"),
    "rate limit": (fault(429, "slow down"), "RateLimitError"),
    "server fault": (fault(500, "oh"), "InternalServerError"),
    "no JSON body": (Reply(body=b"<html>gateway</html>"), ""),
    "a number without end": (Reply(body=b'{"created": %s}' % (b"9" * 5000)), ""),
    "a web page": (
        Reply(body=b"<html>Sign in</html>", headers={"content-type": "text/html"}),
        "check that base_url ends in /v1",
    ),
    "broken off by the gateway": (Reply("", finish="error"), "the server broke off (finish_reason 'error')"),
    "connection cut": (Reply("x" * 400, cut=True), "Connection"),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_reply_is_asked_again(broken: tuple[Reply, str]) -> None:
    with judge(in_turn(broken[0], said(score=81))) as server:
        tested = make(server)
        score = await tested.evaluate(SAMPLE)
    assert score.value == 81.0
    assert len(server.requests) == 2
    assert (tested.usage.requests, tested.usage.failed, tested.usage.not_scored) == (2, 1, 0)


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
async def test_a_judge_that_stays_broken_gives_no_score_and_says_why(broken: tuple[Reply, str]) -> None:
    with judge(broken[0]) as server:
        tested = make(server)
        with pytest.raises(EvaluatorError, match=r"gave no ratings in 3 attempts") as caught:
            await tested.evaluate(SAMPLE)
    assert broken[1] in str(caught.value)
    assert len(server.requests) == 3
    assert tested.usage.not_scored == 1


@pytest.mark.parametrize("usage", [None, {}, "much", {"prompt_tokens": None, "completion_tokens": "x"}, [1]])
async def test_usage_of_another_form_costs_no_score(usage: object) -> None:
    reply = {"choices": [{"message": {"content": '{"feedback": "Fine.", "score": 64}'}}], "usage": usage}
    with judge(Reply(body=json.dumps(reply).encode())) as server:
        tested = make(server, input_price=1.0)
        assert (await tested.evaluate(SAMPLE)).value == 64.0
    assert (tested.usage.prompt_tokens, tested.usage.cost) == (0, 0.0)


async def test_a_broken_reply_is_told_to_the_judge_in_the_next_attempt() -> None:
    with judge(in_turn(said(score=150), said(score=15))) as server:
        await scored(server, seed=1)
    first, second = server.requests
    assert "150" in second["messages"][0]["content"][-1]["text"]
    assert second["messages"][0]["content"][:-1] == first["messages"][0]["content"]
    assert second["seed"] != first["seed"]


async def test_the_wait_that_the_server_asks_for_is_kept_within_bounds() -> None:
    slow = [fault(429, "slow", **{"retry-after": seconds}) for seconds in ("3", "900")]
    with judge(in_turn(*slow, said(score=1))) as server:
        await scored(server, max_wait=20)
    assert WAITS == [3.0, 20.0]


async def test_a_server_that_hangs_is_given_up() -> None:
    free = threading.Event()
    with judge(Reply(until=free)) as server:
        with pytest.raises(EvaluatorError, match=r"no answer within 0\.2 s"):
            await scored(server, timeout=0.2, attempts=2)
        free.set()
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("response_format", "response_format of type json_schema is not supported"),
        ("temperature", "Unsupported value: 'temperature'"),
        ("seed", "unknown field: seed"),
        ("logprobs", "logprobs are not available"),
    ],
)
async def test_a_feature_that_the_server_lacks_is_left_out_from_then_on(option: str, message: str) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        return fault(400, message) if option in request else said(score=33)

    with judge(script) as server:
        tested = make(server, seed=1, expected_score=True)
        scores = [(await tested.evaluate(SAMPLE)).value for _ in range(2)]
    assert scores == [33.0, 33.0]
    assert [option in request for request in server.requests] == [True, False, False]


async def test_other_refused_requests_are_not_repeated() -> None:
    with judge(fault(400, "the image is too large")) as server:
        with pytest.raises(EvaluatorError, match="too large"):
            await scored(server)
        assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "words"), [(401, "refuses the key"), (403, "refuses the key"), (404, "not served")])
async def test_what_no_sample_can_help_is_a_fault_of_the_configuration(status: int, words: str) -> None:
    with judge(fault(status, "no")) as server:
        with pytest.raises(ConfigError, match=words):
            await scored(server)
        with pytest.raises(ConfigError, match=words):
            await evaluate_many(make(server), [SAMPLE] * 3)


async def test_one_failing_pass_leaves_the_sample_without_a_score() -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        return Reply("no") if schema_name(request) == "edit_perception" else said(success=10, no_over_edit=10)

    with judge(script) as server, pytest.raises(EvaluatorError, match="no ratings"):
        await scored(server, scheme="viescore")


async def test_an_unchanged_or_missing_image_is_worth_nothing_and_costs_nothing() -> None:
    with judge(said(score=100)) as server:
        tested = make(server)
        unchanged = await tested.evaluate(EditSample("x", SOURCE, SOURCE.copy()))
        missing = await tested.evaluate(EditSample("x", SOURCE, None))
    assert (unchanged.value, missing.value) == (0.0, 0.0)
    assert "unchanged" in unchanged.feedback
    assert server.requests == []


async def test_a_generated_image_is_judged_without_a_source() -> None:
    with judge(said(score=77)) as server:
        score = await make(server, scheme="generation", rubric="jewelry").evaluate(EditSample("a ring", RESULT, RESULT))
    assert score.value == 77.0
    content = server.requests[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]
    assert "a ring" in content[-1]["text"]
    assert "sparkle" in content[-1]["text"]


async def test_the_account_has_tokens_costs_and_time_of_each_sample_and_of_all() -> None:
    with judge(in_turn(said(score=150), said(score=15))) as server:
        tested = make(server, input_price=2.0, output_price=10.0)
        _, first = await tested.evaluate_with_usage(SAMPLE)
        _, second = await tested.evaluate_with_usage(SAMPLE)
    assert (first.requests, first.prompt_tokens, first.completion_tokens) == (2, 2000, 200)
    assert first.cost == pytest.approx(2 * (1000 * 2.0 + 100 * 10.0) / 1e6)
    assert second.requests == 1
    assert second.seconds > 0
    assert (tested.usage.samples, tested.usage.requests) == (2, 3)
    assert tested.usage.seconds == pytest.approx(first.seconds + second.seconds)


async def test_no_more_requests_run_at_once_than_allowed() -> None:
    together, free, too_many = threading.Barrier(3, timeout=30), threading.Semaphore(3), []

    def script(request: dict[str, Any], number: int) -> Reply:
        if not free.acquire(blocking=False):
            too_many.append(number)
        together.wait()  # breaks where fewer than three are asked at once
        free.release()
        return said(score=50)

    with judge(script) as server:
        tested = make(server, in_flight=3)
        scores = await evaluate_many(tested, [SAMPLE] * 12, GuardSettings(in_flight=12))
    assert all(isinstance(score, Score) for score in scores)
    assert too_many == []


async def test_a_batch_keeps_its_order_and_tells_what_was_not_scored() -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        words = request["messages"][0]["content"][2]["text"]
        return Reply(None, refusal="no") if "number 2" in words else said(score=10 * int(words.split("number ")[1][0]))

    with judge(script) as server:
        samples = [EditSample(f"number {number}", SOURCE, RESULT) for number in range(4)]
        outcomes = await evaluate_many(make(server), samples)
    assert [o.value if isinstance(o, Score) else None for o in outcomes] == [0.0, 10.0, None, 30.0]
    assert isinstance(outcomes[2], NotScored)
    assert "refused" in outcomes[2].reason


async def test_expected_scores_come_from_the_log_probs_where_there_are_any() -> None:
    def entry(token: str, **chances: float) -> dict[str, Any]:
        import math

        top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in chances.items()]
        return {"token": token, "logprob": top[0]["logprob"] if top else 0.0, "bytes": None, "top_logprobs": top}

    pieces = [entry('{"feedback": "Fine.", "score":'), entry(" "), entry("80", **{"80": 0.5, "90": 0.5}), entry("}")]
    text = "".join(piece["token"] for piece in pieces)
    with judge(in_turn(Reply(text, logprobs=pieces), Reply(text))) as server:
        tested = make(server, expected_score=True)
        values = [(await tested.evaluate(SAMPLE)).value for _ in range(2)]
    assert values == [pytest.approx(85.0), 80.0]
    assert server.requests[0]["top_logprobs"] == 20


def test_it_works_from_one_event_loop_after_another() -> None:
    with judge(said(score=42)) as server:
        settings = JudgeSettings(
            model="m", base_url=server.base_url, scheme="simple", in_flight=1, requests_per_minute=6e6
        )
        tested = VlmJudge(settings)
        assert [asyncio.run(tested.evaluate(SAMPLE)).value for _ in range(2)] == [42.0, 42.0]


@pytest.mark.slow
def test_connections_are_closed_and_those_of_a_loop_that_is_gone_are_not_missed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def score(tested: Evaluator, closed: bool) -> Score:
        score = await tested.evaluate(SAMPLE)
        if closed:
            await close_evaluator(tested)
            await close_evaluator(tested)
        gc.collect()
        return score

    with judge(said(score=42)) as server:
        settings = JudgeSettings(model="m", base_url=server.base_url, scheme="simple")
        inner = VlmJudge(settings)
        tested = CompositeEvaluator({"judge": GuardedEvaluator(inner), "reference": Always()})
        for closed in (False, True, True):
            assert asyncio.run(score(tested, closed)).value == pytest.approx(42.0)
        assert inner._client._client._own._made is None
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


class Always:
    """Full marks; holds nothing, and so has no `close`."""

    async def evaluate(self, sample: EditSample) -> Score:
        return Score(100.0)


def test_wrong_settings_name_the_valid_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="viescore"):
        VlmJudge(JudgeSettings(model="m", scheme="viescor"))
    with pytest.raises(ConfigError, match="jewelry"):
        VlmJudge(JudgeSettings(model="m", rubric="jewellery"))
    with pytest.raises(ConfigError, match="api_key_env"):
        JudgeSettings(model="m", api_key="secret")  # type: ignore[call-arg]  # a key itself is refused
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        asyncio.run(VlmJudge(JudgeSettings(model="m")).evaluate(SAMPLE))


async def test_the_key_comes_from_the_environment_and_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    with judge(fault(401, "wrong key sk-very-secret")) as server:
        settings = JudgeSettings(model="m", base_url=server.base_url, api_key_env="JUDGE_KEY")
        with pytest.raises(ConfigError) as caught:
            await VlmJudge(settings).evaluate(SAMPLE)
    assert server.keys == ["Bearer sk-very-secret"] * len(server.requests)
    assert "sk-very-secret" not in str(caught.value)


@pytest.mark.parametrize("reply", [fault(400, "no key b'sk-very-secret'"), fault(400, "content_policy sk-very-secret")])
async def test_the_judge_does_not_repeat_a_key_that_the_server_repeats(
    reply: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret\n")
    with judge(reply) as server:
        settings = JudgeSettings(model="m", base_url=server.base_url, api_key_env="JUDGE_KEY", attempts=2)
        with pytest.raises(EvaluatorError) as caught:
            await VlmJudge(settings).evaluate(SAMPLE)
    assert server.keys[0] == "Bearer sk-very-secret"
    assert "sk-very-secret" not in f"{caught.value}{server.requests}"


async def test_the_judge_does_not_repeat_a_key_from_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    with judge(Reply("who are you, sk-very-secret?")) as server:
        settings = JudgeSettings(model="m", base_url=server.base_url, api_key_env="JUDGE_KEY", attempts=1)
        with pytest.raises(EvaluatorError, match=r"who are you, \*\*\*") as caught:
            await VlmJudge(settings).evaluate(SAMPLE)
    assert "sk-very-secret" not in str(caught.value)
