"""Results of a task are ranked against each other, whatever the judge prefers of the order in which they are shown."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image

from agentfly.errors import ConfigError
from agentfly.evaluators import CompositeEvaluator, EditSample, GuardedEvaluator, NotScored, Score, make_evaluator
from agentfly.evaluators.base import is_relative
from agentfly.evaluators.factory import scores_groups
from agentfly.evaluators.judge.listwise import ListwiseJudge, ListwiseSettings
from agentfly.evaluators.judge.ranking import Ranked, RankQuestion, agreement, beaten, orders
from agentfly.evaluators.judge.replies import BrokenReply
from tests.unit.evaluators.scripted_judge import Judge, Reply, fault, judge, said, schema_name

SOURCE = Image.new("RGB", (8, 8), (0, 0, 0))


def result(level: int) -> EditSample:
    """A result whose brightness is its worth."""
    return EditSample("make it bright", SOURCE, Image.new("RGB", (8, 8), (level, level, level)))


def levels(request: dict[str, Any]) -> list[int]:
    """The brightness of the results that a request shows, in order, without the source."""
    parts = request["messages"][0]["content"]
    shown = [part["image_url"]["url"].split(",")[1] for part in parts if part["type"] == "image_url"]
    pixels = [Image.open(io.BytesIO(base64.b64decode(data))).getpixel((0, 0)) for data in shown]
    return [int(np.asarray(pixel)[0]) for pixel in pixels][1:]


def ranks(worth: Callable[[int, int], float]) -> Callable[[dict[str, Any], int], Reply]:
    """A judge that orders by the worth of a level at a place."""

    def script(request: dict[str, Any], number: int) -> Reply:
        if schema_name(request) != "edit_ranking":
            return said(score=levels(request)[0])
        found = levels(request)
        best = sorted(range(len(found)), key=lambda place: -worth(found[place], place))
        notes = [f"level {level}" for level in found]
        return Reply(json.dumps({"notes": notes, "ranking": [[place + 1] for place in best]}))

    return script


async def no_wait(seconds: float) -> None:
    """Tests wait for nothing."""


def make(server: Judge, **settings: Any) -> ListwiseJudge:
    given = {"model": "m", "base_url": server.base_url, "scheme": "simple", "attempts": 2, **settings}
    client = openai.AsyncOpenAI(
        api_key="k", base_url=server.base_url, max_retries=0, http_client=httpx2.AsyncClient(verify=False)
    )
    return ListwiseJudge(ListwiseSettings(**given), client=client, sleep=no_wait)


async def scored(server: Judge, samples: Sequence[EditSample], **settings: Any) -> list[Score]:
    found = await make(server, **settings).evaluate_group(samples)
    assert all(isinstance(score, Score) for score in found)
    return [score for score in found if isinstance(score, Score)]


async def test_ranks_become_scores_in_two_requests_that_show_the_group_in_opposite_orders() -> None:
    with judge(ranks(lambda level, place: level)) as server:
        scores = await scored(server, [result(level) for level in (30, 90, 60, 10)])
    assert [score.value for score in scores] == pytest.approx([100 / 3, 100, 200 / 3, 0])
    assert all(score.relative and score.aspects["agreement"] == 1.0 for score in scores)
    assert [score.feedback for score in scores] == ["level 30", "level 90", "level 60", "level 10"]
    first, second = map(levels, server.requests)
    assert first == second[::-1]
    text = server.requests[0]["messages"][0]["content"][-1]["text"]
    assert "make it bright" in text


async def test_a_judge_that_prefers_the_first_place_says_nothing() -> None:
    with judge(ranks(lambda level, place: -place)) as server:
        scores = await scored(server, [result(level) for level in (30, 90, 60, 10)])
    assert [score.value for score in scores] == [50.0] * 4
    assert scores[0].aspects["agreement"] == 0.0


async def test_what_is_known_is_not_asked_and_equal_images_are_one_candidate() -> None:
    nothing = EditSample("make it bright", SOURCE, None)
    with judge(ranks(lambda level, place: level)) as server:
        scores = await scored(server, [result(90), result(0), result(20), nothing, result(90)])
    assert [levels(request) for request in server.requests] in ([[90, 20], [20, 90]], [[20, 90], [90, 20]])
    # The worst candidate beats the unchanged image: (1 * 0 + 1) / 2.
    assert [score.value for score in scores] == [100.0, 0.0, 50.0, 0.0, 100.0]
    assert scores[1].feedback == "The image is unchanged."


async def test_one_candidate_gets_its_single_score() -> None:
    with judge(ranks(lambda level, place: level)) as server:
        scores = await scored(server, [result(70), result(0), result(70)])
    assert [score.value for score in scores] == [70.0, 0.0, 70.0]
    assert not scores[0].relative
    assert [schema_name(request) for request in server.requests] == ["edit_judgement"]


async def test_a_group_that_cannot_be_ranked_gets_single_scores_alike() -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        if schema_name(request) == "edit_ranking":
            return Reply(json.dumps({"notes": [], "ranking": [[1], [1], [2]]}))
        return fault(400, "no") if levels(request)[0] == 60 else said(score=levels(request)[0])

    with judge(script) as server:
        tested = make(server)
        scores = await tested.evaluate_group([result(level) for level in (30, 90, 60)])
    assert [score.value for score in scores if isinstance(score, Score)] == [30.0, 90.0]
    assert isinstance(scores[2], NotScored)
    assert not any(isinstance(score, Score) and score.relative for score in scores)
    words = [request["messages"][0]["content"][-1]["text"] for request in server.requests]
    assert any("each of the numbers 1 to 3 once" in text for text in words)
    assert tested.usage.samples == 3


async def test_a_refused_key_ends_the_group() -> None:
    with judge(fault(401, "who?")) as server, pytest.raises(ConfigError, match="refuses the key"):
        await make(server).evaluate_group([result(10), result(20)])


def test_a_large_group_is_dealt_anew_and_every_result_has_early_and_late_places() -> None:
    planned = orders(13, 4, 5, random.Random(0))
    places = np.zeros((4, 13))
    for row, blocks in zip(places, planned, strict=True):
        assert sorted(n for block in blocks for n in block) == list(range(13))
        assert {len(block) for block in blocks} == {4, 5}
        for block in blocks:
            row[block] = np.arange(len(block)) / (len(block) - 1)
    assert np.abs(places[0] + places[1] - 1).max() <= 0.25
    first, second = ({frozenset(block) for block in planned[number]} for number in (0, 1))
    assert first != second


def test_ties_count_half_and_opposite_orders_agree_in_nothing() -> None:
    ranked = Ranked(((2,), (0, 1)), ("", "", ""))
    assert beaten(3, [[([0, 1, 2], ranked)]]).tolist() == [[0.25, 0.25, 1.0]]
    up, down = Ranked(((0,), (1,)), ("", "")), Ranked(((1,), (0,)), ("", ""))
    assert agreement([[([0, 1], up)], [([0, 1], down)]]) == 0.0
    assert agreement([[([0, 1], up)], [([1, 0], down)]]) == 1.0
    assert agreement([[([0, 1], up)]]) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"notes": [], "ranking": [[1], [2]]}', "each of the numbers 1 to 3 once"),
        ('{"notes": [], "ranking": [[1], [2], [2.5]]}', "no whole number"),
        ('{"notes": [], "ranking": "2 > 1 > 3"}', "not a list"),
        ('{"notes": []}', "no JSON object with ranking"),
    ],
)
def test_what_is_no_ranking_is_asked_again(text: str, reason: str) -> None:
    with pytest.raises(BrokenReply, match=reason):
        RankQuestion(3).read(text, ())


def test_a_plain_list_and_numbers_in_quotes_are_a_ranking() -> None:
    assert RankQuestion(3).read('{"ranking": [3, "1", 2]}', ()).tiers == ((2,), (0,), (1,))


async def test_parts_of_a_group_are_combined_result_by_result() -> None:
    class Halves:
        async def evaluate(self, sample: EditSample) -> Score:
            return Score(50.0)

    with judge(ranks(lambda level, place: level)) as server:
        whole = CompositeEvaluator({"ranks": make(server), "kept": Halves()})
        assert whole.relative
        scores = await GuardedEvaluator(whole).evaluate_group([result(10), result(20)])
    assert [score.value for score in scores if isinstance(score, Score)] == [0.0, 50.0]
    assert all(isinstance(score, Score) and score.relative for score in scores)
    with pytest.raises(ConfigError, match="cannot have a part that ranks"):
        CompositeEvaluator({"ranks": ListwiseJudge(ListwiseSettings(model="m"))}, "first")


def test_a_spec_says_that_it_ranks_without_being_made() -> None:
    ranked = {"evaluator": "listwise", "model": "m"}
    assert scores_groups(ranked)
    assert scores_groups({"evaluator": "composite", "parts": {"a": "structural", "b": ranked}})
    assert scores_groups(f"{ListwiseJudge.__module__}:ListwiseJudge")
    assert not scores_groups({"evaluator": "judge", "model": "m"})
    assert is_relative(make_evaluator({**ranked, "guard": {"in_flight": 2}}))
