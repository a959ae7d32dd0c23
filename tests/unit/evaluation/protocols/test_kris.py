"""KRIS-Bench: the requests of each kind of category, and the averages, against figures by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentfly.errors import EvaluatorError
from agentfly.evaluation.protocols.base import Row
from agentfly.evaluation.protocols.figures import figure
from agentfly.evaluation.protocols.kris import lowest, measures, read_dual, read_number, score
from agentfly.evaluators import EditSample, Score
from agentfly.evaluators.judge.replies import BrokenReply
from tests.unit.evaluation.protocols.authors import grey, kris_prompts, protocol_judge, words_of
from tests.unit.evaluators.scripted_judge import Judge, Reply, judge


def opinion(request: dict[str, Any], _: int) -> Reply:
    """5 for consistency, 4 for the instruction, 3 for quality and 2 for knowledge."""
    name = words_of(request)[0].partition(">")[0]
    if name == "<prompt_dual_evaluation":
        return Reply('{"instruction_score": 4, "knowledge_score": "2", "instruction_reasoning": "r"}')
    key, number = (
        ("quality", 3) if "quality" in name else ("consistency", 5) if "consist" in name else ("instruction", 4)
    )
    return Reply(f'So: {{"{key}_score": {number}, "reasoning": "r"}}')


async def judged(tmp_path: Path, category: str, **more: Any) -> tuple[Score, Judge]:
    metadata = {"category": category, "explanation": "WHY", **more.pop("metadata", {})}
    sample = EditSample("Turn it.", grey(9), grey(200), metadata=metadata, **more)
    with judge(opinion) as server:
        return await protocol_judge(server, "kris", kris_prompts(tmp_path)).evaluate(sample), server


def by_prompt(server: Judge) -> dict[str, list[str]]:
    return {words_of(r)[0].partition(">")[0].removeprefix("<"): words_of(r) for r in server.requests}


async def test_a_category_without_knowledge_has_three_numbers(tmp_path: Path) -> None:
    found, server = await judged(tmp_path, "color_change")
    assert found.aspects == {"mean": 0.75, "consistency": 1.0, "instruction": 0.75, "quality": 0.5}
    assert found.value == 75.0
    sent = by_prompt(server)
    assert sent["prompt_consist"] == ['<prompt_consist> Turn it. {"json": 1}', "BEFORE", "IMAGE", "AFTER", "IMAGE"]
    assert sent["prompt_quality"] == ['<prompt_quality>  {{"json": 1}}', "AFTER", "IMAGE"]
    assert {r["model"] for r in server.requests} == {"gpt-4o"}
    assert {r["max_tokens"] for r in server.requests} == {1000}


async def test_a_category_of_knowledge_has_a_fourth_number(tmp_path: Path) -> None:
    found, server = await judged(tmp_path, "physics")
    assert found.aspects == {"mean": 0.625, "consistency": 1.0, "instruction": 0.75, "knowledge": 0.25, "quality": 0.5}
    assert by_prompt(server)["prompt_dual_evaluation"][0].startswith("<prompt_dual_evaluation> Turn it. | WHY")


async def test_a_changed_view_is_judged_beside_its_ground_truth(tmp_path: Path) -> None:
    _, server = await judged(tmp_path, "viewpoint_change", references={"gt_img": grey(3)})
    words = by_prompt(server)["prompt_view_instruction_following"]
    assert words[1:] == ["BEFORE", "IMAGE", "AFTER", "IMAGE", "TRUTH", "IMAGE"]
    with pytest.raises(EvaluatorError, match="gt_img is not among"):
        await judged(tmp_path, "viewpoint_change")


async def test_several_sources_are_numbered_and_frames_stand_in_their_order(tmp_path: Path) -> None:
    images = tuple(grey(level) for level in (1, 2, 3))
    _, server = await judged(tmp_path, "multi-element_composition", sources=images)
    words = by_prompt(server)["prompt_consist_multi"]
    assert words[1:] == ["GIVEN 1", "IMAGE", "GIVEN 2", "IMAGE", "GIVEN 3", "IMAGE", "MADE", "IMAGE"]
    assert by_prompt(server)["prompt_quality"][1] == "ALONE"
    named = {"metadata": {"images": ["7-1.jpg", "7-3.jpg", "7-4.jpg"]}, "sources": images}
    _, server = await judged(tmp_path, "temporal_prediction", **named)
    words = by_prompt(server)["prompt_consist_temporal"]
    assert words[0].startswith("<prompt_consist_temporal> 2 Turn it.")
    assert words[1::2] == ["F1 Reference", "F2 Generated", "F3 Reference", "F4 Reference"]
    urls = [part["image_url"]["url"] for part in server.requests[0]["messages"][0]["content"] if "image_url" in part]
    assert {url[:15] for url in urls} == {"data:image/jpeg"}
    with pytest.raises(EvaluatorError, match="have no numbers"):
        await judged(tmp_path, "temporal_prediction", sources=images)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ('{"quality_score": 4, "reasoning": "r"}', 4),
        ('```json\n{"quality_score": "5"}\n```', 5),
        ("Quality score: 3", 3),
        ("I give 2/5.", 2),
        ("4 out of 5", 4),
        ('{"quality_score": "high"} well, 3', 3),
    ],
)
def test_every_form_of_a_reply_that_the_scripts_read(text: str, number: int) -> None:
    assert read_number(text, "quality_score") == number


def test_what_is_no_rating_is_none() -> None:
    for text in ("", "nothing", '{"quality_score": 9}', '{"quality_score": 0}'):
        with pytest.raises(BrokenReply):
            read_number(text, "quality_score")
    with pytest.raises(BrokenReply, match="knowledge_score"):
        read_dual('{"instruction_score": 3}')
    assert read_dual("Instruction score: 3, knowledge score: 2") == {"instruction": 3.0, "knowledge": 2.0}
    assert read_dual(json.dumps({"instruction_score": 5, "knowledge_score": 1})) == {
        "instruction": 5.0,
        "knowledge": 1.0,
    }


def test_figures_are_means_over_samples() -> None:
    given: list[tuple[str, dict[str, float]]] = [
        ("color_change", {"consistency": 5, "instruction": 5, "quality": 5}),  # 100
        ("viewpoint_change", {"consistency": 1, "instruction": 3, "quality": 2}),  # 25
        ("physics", {"consistency": 5, "instruction": 3, "quality": 5, "knowledge": 1}),  # 62.5
    ]
    rows = [Row(c, c, score(ratings, {"category": c})[1], {"category": c}) for c, ratings in given]
    found = {(f["name"], f["group"]): f["mean"] for f in map(figure, measures(rows))}
    assert found["overall", None] == 62.5
    assert found["factual knowledge", None] == 62.5
    assert found["conceptual knowledge", None] == found["natural science", None] == 62.5
    assert found["attribute perception", None] == 100.0
    assert ("procedural knowledge", None) not in found
    assert found["instruction", None] == pytest.approx((100 + 50 + 50) / 3, abs=1e-6)
    assert found["knowledge", None] == 0.0
    assert lowest({"category": "physics"}).keys() == {"consistency", "instruction", "quality", "knowledge"}
