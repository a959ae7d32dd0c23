"""Whoever cannot score says so before anything is spent: with the address and what to do, and at no cost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from PIL import Image

from agentfly.errors import AgentFlyError, ConfigError, EvaluatorError
from agentfly.evaluators import (
    CompositeEvaluator,
    EditSample,
    GuardedEvaluator,
    Score,
    base,
    check_ready,
    check_sample,
    make_evaluator,
)
from agentfly.evaluators.http import HttpEvaluator, HttpEvaluatorSettings
from agentfly.serving.evaluator_server import create_app
from tests.unit.evaluators.scripted_judge import Reply, fault, judge, said, serving

NOWHERE = "http://127.0.0.1:9"
GREY = Image.new("RGB", (32, 32), (90, 90, 90))
ONLY_WORDS = EditSample("Make it blue.", GREY, None)


def spec(base_url: str, **more: Any) -> dict[str, Any]:
    return {"evaluator": "judge", "model": "m", "base_url": base_url, **more}


async def refusal(given: Any) -> str:
    with pytest.raises(AgentFlyError) as refused:
        await check_ready(make_evaluator(given))
    return str(refused.value)


async def test_a_judge_that_serves_the_model_is_asked_for_nothing_but_its_list() -> None:
    with judge(said(score=9)) as server:
        await check_ready(make_evaluator(spec(server.base_url)))
        assert server.requests == []
        assert len(server.keys) == 1


async def test_a_judge_that_is_down_is_named_with_its_address() -> None:
    said = await refusal(spec(f"{NOWHERE}/v1"))
    assert said.startswith(f"the judge m at {NOWHERE}/v1 did not answer (")
    assert said.endswith(": check its address, and that it runs")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (serving("m-large", "other"), r"is not served there: unknown model 'm'.* Valid: m-large, other"),
        (fault(401, "no"), r"refuses the key \(HTTP 401\): set JUDGE_KEY"),
        (fault(503, "loading"), "did not answer .*503.*: try again later"),
        (Reply(body=b"<html>"), "gives no list of models: check base_url, which ends in /v1"),
        (Reply(body=b'"hello"'), "gives no list of models: check base_url, which ends in /v1"),
    ],
)
async def test_a_judge_that_cannot_judge_says_why(reply: Reply, words: str) -> None:
    with judge(said(score=9)) as server:
        server.models = reply
        with pytest.raises(AgentFlyError, match=words):
            await check_ready(make_evaluator(spec(server.base_url, api_key_env="JUDGE_KEY")))


@pytest.mark.parametrize(
    "reply",
    [
        serving("models/m"),
        serving("*"),
        serving(),
        # A chat server may keep no list.
        fault(404, "not found"),
    ],
)
async def test_a_judge_that_may_well_judge_is_believed(reply: Reply) -> None:
    with judge(said(score=9)) as server:
        server.models = reply
        await check_ready(make_evaluator(spec(server.base_url)))


async def test_an_address_without_v1_is_not_taken_for_a_server_without_a_list() -> None:
    with judge(said(score=9)) as server:
        server.models = fault(404, "not found")
        assert "base_url, which ends in /v1" in await refusal(spec(server.base_url.removesuffix("/v1")))


@pytest.mark.parametrize("base_url", [None, "https://api.openai.com/v1"])
async def test_a_missing_key_is_named_before_any_request(base_url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", NOWHERE)  # a request would fail with other words
    with pytest.raises(ConfigError, match="no API key: set OPENAI_API_KEY"):
        await check_ready(make_evaluator(spec(base_url)))  # type: ignore[arg-type]


async def test_a_composite_names_all_parts_that_are_not_ready() -> None:
    parts = {"looks": spec(f"{NOWHERE}/v1"), "kept": "structural", "far": {"evaluator": "http", "base_url": NOWHERE}}
    told = await refusal({"evaluator": "composite", "parts": parts, "guard": {"attempts": 1}})
    assert "part 'looks': the judge m at" in told
    assert f"part 'far': the evaluator at {NOWHERE} does not answer" in told
    assert "check base_url, and that the server runs" in told
    assert "kept" not in told


async def test_a_detector_on_a_server_is_asked_too() -> None:
    with judge(said(score=9)) as server:
        server.models = serving("m")
        vlm = {"engine": "vlm", "model": "m", "endpoint": {"base_url": server.base_url}}
        await check_ready(make_evaluator({"evaluator": "detector", "detector": vlm}))
        vlm["model"] = "n"
        assert "the detector n at" in await refusal({"evaluator": "detector", "detector": vlm})
    assert "did not answer" in await refusal({"evaluator": "detector", "detector": vlm})
    await check_ready(make_evaluator("detector"))


async def test_an_evaluator_on_a_server_is_asked_with_what_is_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    class Asked:
        samples = 0

        async def evaluate(self, sample: EditSample) -> Score:
            self.samples += 1
            return Score(1.0)

    def client(base_url: str = "http://scorer") -> HttpEvaluator:
        transport = httpx.ASGITransport(create_app(asked))
        return HttpEvaluator(HttpEvaluatorSettings(base_url=base_url), transport)

    asked = Asked()
    await check_ready(client())
    assert asked.samples == 0
    with pytest.raises(ConfigError, match="check base_url, which ends before /v1/evaluate"):
        await check_ready(client("http://scorer/v1"))
    monkeypatch.setenv("AGENTFLY_EVALUATOR_KEY", "secret")
    server = create_app(asked)
    monkeypatch.delenv("AGENTFLY_EVALUATOR_KEY")
    keyless = HttpEvaluator(HttpEvaluatorSettings(base_url="http://scorer"), httpx.ASGITransport(server))
    with pytest.raises(ConfigError, match="set AGENTFLY_EVALUATOR_KEY"):
        await check_ready(keyless)


async def test_an_evaluator_server_shows_no_key_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    def repeat(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403, json={"error": {"message": f"no {request.headers['authorization']}"}})

    monkeypatch.setenv("AGENTFLY_EVALUATOR_KEY", "sk-secret\n")
    settings = HttpEvaluatorSettings(base_url="http://scorer?key=pa55word")
    with pytest.raises(ConfigError, match=r"at http://scorer\?key=\*\*\*: HTTP 403: no Bearer \*\*\*; set AGENTFLY"):
        await check_ready(HttpEvaluator(settings, httpx.MockTransport(repeat)))


async def test_nobody_is_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        async def evaluate(self, sample: EditSample) -> Score:
            return Score(0.0)

        async def check_ready(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(base, "READY_SECONDS", 0.01)
    with pytest.raises(EvaluatorError, match=r"the evaluator did not say within 0\.01 s"):
        await check_ready(GuardedEvaluator(Silent()))


async def test_imports_are_not_counted_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a starved machine the libraries of a judge take longer than the limit, while the event loop stands still."""
    loop = asyncio.get_running_loop()
    clock, stood_still = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: clock() + stood_still)

    class Importing:
        async def evaluate(self, sample: EditSample) -> Score:
            return Score(0.0)

        async def check_ready(self) -> None:
            nonlocal stood_still
            for _ in range(3):
                stood_still += 10 * base.READY_SECONDS
                await asyncio.sleep(0)

    composite = CompositeEvaluator({"a": Importing(), "b": GuardedEvaluator(Importing())})
    await check_ready(composite)
    assert stood_still == 60 * base.READY_SECONDS


async def test_a_server_that_takes_requests_and_never_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    async def hang(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("agentfly.evaluators.http.READY_SECONDS", 0.02)
    hung = HttpEvaluator(HttpEvaluatorSettings(base_url="http://scorer"), httpx.MockTransport(hang))
    with pytest.raises(EvaluatorError, match="the evaluator at http://scorer does not answer"):
        await check_ready(hung)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("reference", "needs the target and the mask"),
        ("structural", "needs a target or a mask"),
        ("detector", "names no checks"),
        ("similarity", "source_caption"),
        ({"evaluator": "composite", "parts": {"a": "reference", "b": spec(NOWHERE)}}, "^part 'a': the reference"),
        ({"evaluator": "reference", "guard": {"attempts": 2}}, "needs the target"),
    ],
)
async def test_a_sample_without_what_its_score_needs_is_told(given: Any, words: str) -> None:
    if given == "similarity":
        pytest.importorskip("torch")
    with pytest.raises(EvaluatorError, match=words):
        await check_sample(make_evaluator(given), ONLY_WORDS)


async def test_words_are_enough_for_a_judge_and_nothing_is_asked() -> None:
    await check_sample(make_evaluator(spec(NOWHERE)), ONLY_WORDS)


async def test_source_and_target_that_agree_are_told_before_there_is_a_result() -> None:
    sample = EditSample("Do it.", GREY, None, GREY, Image.new("L", GREY.size, 255))
    with pytest.raises(EvaluatorError, match="an edit that does nothing would look correct"):
        await check_sample(make_evaluator("reference"), sample)
