"""GEdit-Bench: what the judge is sent, what its replies are worth, and the averages, against figures by hand."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.errors import EvaluatorError
from agentfly.evaluation.protocols.base import Row
from agentfly.evaluation.protocols.figures import figure
from agentfly.evaluation.protocols.gedit import measures, read_scores, score
from agentfly.evaluators import EditSample
from agentfly.evaluators.judge.replies import BrokenReply
from tests.unit.evaluation.protocols.authors import gedit_prompts, grey, protocol_judge, words_of
from tests.unit.evaluators.scripted_judge import Reply, in_turn, judge


def reply(*scores: float) -> Reply:
    return Reply(json.dumps({"score": list(scores), "reasoning": "so"}))


def by_words(request: dict[str, Any], number: int) -> Reply:
    return reply(8, 6) if "SEMANTICS" in words_of(request)[0] else reply(9, 4)


def sample(**more: Any) -> EditSample:
    fields = {"references": {"input_image": grey(50, (24, 12))}, **more}
    return EditSample("Make it bright.", grey(60, (96, 48)), grey(200, (48, 48)), **fields)


def images_of(request: dict[str, Any]) -> list[tuple[str, Image.Image]]:
    urls = [p["image_url"]["url"] for p in request["messages"][0]["content"] if p["type"] == "image_url"]
    parts = [url.partition(",") for url in urls]
    return [(head, Image.open(io.BytesIO(base64.b64decode(data)))) for head, _, data in parts]


async def test_both_requests_are_sent_as_the_authors_send_them(tmp_path: Path) -> None:
    root = gedit_prompts(tmp_path)
    with judge(by_words) as server:
        tested = protocol_judge(server, "gedit", root)
        found, usage = await tested.evaluate_with_usage(sample())
        await tested.close()
    # min(8, 6) and min(9, 4) of 10.
    assert found.aspects == {"semantics": 0.6, "quality": 0.4, "overall": pytest.approx(math.sqrt(0.24))}
    assert found.value == pytest.approx(100 * math.sqrt(0.24))
    assert usage.models == ("m",)
    assert len(usage.dates) == 1
    semantics, quality = sorted(server.requests, key=lambda request: "QUALITY" in words_of(request)[0])
    assert words_of(semantics) == ["CONTEXT\nRULE\nSEMANTICS of Make it bright.", "IMAGE", "IMAGE"]
    assert words_of(quality) == ["CONTEXT\nQUALITY", "IMAGE"]
    for request in (semantics, quality):
        assert request["max_tokens"] == 1400
        assert not {"response_format", "temperature", "seed"} & request.keys()
    # The source is the data set's input_image, and the result has its size.
    (form, source), (_, result) = images_of(semantics)
    assert (form, source.size, result.size) == ("data:image/jpeg;base64", (24, 12), (24, 12))
    assert abs(source.convert("L").getpixel((3, 3)) - 50) < 3  # type: ignore[operator]
    assert images_of(quality)[0][1].tobytes() == result.tobytes()


async def test_an_unreadable_reply_is_asked_for_again_and_never_guessed(tmp_path: Path) -> None:
    root = gedit_prompts(tmp_path)
    with judge(in_turn(Reply("I would say good."), reply(5, 5))) as server:
        tested = protocol_judge(server, "gedit", root, in_flight=1)
        assert (await tested.evaluate(sample())).value == pytest.approx(50.0)
        # The same words again: the authors remind of nothing.
        assert words_of(server.requests[0]) in [words_of(request) for request in server.requests[1:]]
    said = pytest.raises(EvaluatorError, match="gave no ratings in 2 attempts: no list of scores")
    with judge(Reply("good")) as server, said:
        await protocol_judge(server, "gedit", root).evaluate(sample())


async def test_no_result_has_the_lowest_ratings_without_a_request(tmp_path: Path) -> None:
    with judge(by_words) as server:
        found = await protocol_judge(server, "gedit", gedit_prompts(tmp_path)).evaluate(
            EditSample("Make it bright.", grey(60), None)
        )
    assert (found.value, found.aspects["semantics"], server.requests) == (0.0, 0.0, [])


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ('{"score": [7, 8], "reasoning": "r"}', [7, 8]),
        ('||V^=^V||\n{"score": [3, 9],\n"reasoning": ""}\n||V^=^V||', [3, 9]),
        ('Here: {"score": 6, "reasoning": "r"} Done.', [6]),
        ("[4, 10]", [4, 10]),
        ("7", [7]),
        ('{"score": [8, 9], "reasoning": "said "so""}', [8, 9]),
        ("{'score': [8, 9], 'reasoning': 'x',}", [8, 9]),
    ],
)
def test_every_form_of_a_reply_that_the_script_reads(text: str, scores: list[float]) -> None:
    assert read_scores(text) == scores


@pytest.mark.parametrize(
    "text", ["", "11", '{"score": [11, 3]}', '{"score": ["a"]}', '{"reasoning": "r"}', "[1, 2, 3]"]
)
def test_what_is_no_score_is_none(text: str) -> None:
    with pytest.raises(BrokenReply):
        read_scores(text)


def rows() -> list[Row]:
    """Three samples of one type and one of another: by hand, overall is (mean(6, 3, 0) + 8) / 2 = 5.5."""
    ratings = [
        ("a", "color_alter", 6, 6, True),
        ("b", "color_alter", 9, 1, False),
        ("c", "color_alter", 0, 9, True),
        ("d", "style_change", 8, 8, True),
    ]
    return [
        Row(id_, group, score({"semantics": s, "quality": q}, {})[1], {"in_intersection": both})
        for id_, group, s, q, both in ratings
    ]


def test_averages_are_means_of_the_types() -> None:
    found = {(f["name"], f["group"]): f for f in map(figure, measures(rows()))}
    assert found["overall", None]["mean"] == pytest.approx((3 + 8) / 2)
    assert found["semantics", None]["mean"] == pytest.approx((5 + 8) / 2)
    assert found["quality", None]["mean"] == pytest.approx((16 / 3 + 8) / 2, abs=1e-6)
    assert found["overall, intersection", None]["mean"] == pytest.approx((3 + 8) / 2)
    assert found["semantics, intersection", None]["mean"] == pytest.approx((3 + 8) / 2)
    assert found["overall", "color_alter"]["mean"] == pytest.approx(3.0)
    assert found["overall", "style_change"]["tasks"] == 1
    low, high = (found["overall", None][side] for side in ("low", "high"))
    # The other type never varies: only half of the spread of the first remains.
    assert 4.0 <= low < 5.5 < high <= 7.0
