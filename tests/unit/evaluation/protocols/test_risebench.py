"""RISEBench: which requests each category gets, and accuracy and scores, against figures by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentfly.errors import EvaluatorError
from agentfly.evaluation.protocols.base import Row
from agentfly.evaluation.protocols.figures import figure
from agentfly.evaluation.protocols.risebench import lowest, measures, read_final, score
from agentfly.evaluators import EditSample, Score
from agentfly.evaluators.judge.replies import BrokenReply
from tests.unit.evaluation.protocols.authors import grey, protocol_judge, rise_prompts, words_of
from tests.unit.evaluators.scripted_judge import Judge, Reply, judge

TEMPORAL = {"category": "temporal_reasoning", "reference": "rotten"}
SPATIAL = {"category": "spatial_reasoning", "reference": "on the left"}
LOGICAL = {"category": "logical_reasoning"}


def numbers(**by_prompt: int) -> Any:
    """A judge that says a number by the name of the prompt that it is asked by."""

    def script(request: dict[str, Any], _: int) -> Reply:
        name = words_of(request)[0].partition(">")[0].removeprefix("<")
        return Reply(f"Because.\n\n**Final Score:** **{by_prompt[name]}**")

    return script


async def judged(tmp_path: Path, metadata: dict[str, Any], **by_prompt: int) -> tuple[Score, Judge]:
    sample = EditSample(
        "Wait a year.", grey(9, (900, 300)), grey(200), metadata=metadata, references={"reference_img": grey(77)}
    )
    with judge(numbers(**by_prompt)) as server:
        return await protocol_judge(server, "risebench", rise_prompts(tmp_path)).evaluate(sample), server


async def test_a_temporal_task_has_three_requests(tmp_path: Path) -> None:
    found, server = await judged(tmp_path, TEMPORAL, prompt_consist=5, prompt_reasoning=3, prompt_generation=4)
    assert found.value == 0.0
    assert found.aspects == {"solved": 0.0, "consistency": 1.0, "reasoning": 0.5, "plausibility": 0.75}
    sent = {words_of(request)[0].partition(">")[0]: words_of(request) for request in server.requests}
    # Fields are filled in and double braces undone, but for the prompt that the authors send as it is.
    assert sent["<prompt_consist"] == ['<prompt_consist> Wait a year. {"json": 1}', "IMAGE", "IMAGE"]
    assert sent["<prompt_reasoning"][1:] == ["IMAGE"]
    assert sent["<prompt_generation"] == ['<prompt_generation>  {{"json": 1}}', "IMAGE"]
    (request, *_) = server.requests
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("gpt-4.1-2025-04-14", 0.0, 4096)
    assert request["messages"][0]["content"][1]["image_url"]["detail"] == "high"


@pytest.mark.parametrize(
    ("metadata", "asked"),
    [
        (SPATIAL, {"prompt_spatial_cons": 2, "prompt_spatial_ref": 1, "prompt_spatial_qual": 1}),
        (
            {**SPATIAL, "reasoning_img": 1},
            {"prompt_spatial_cons": 2, "prompt_spatial_ref_w_input": 2, "prompt_spatial_qual": 1},
        ),
        (
            {**SPATIAL, "reference_img": "r.png"},
            {"prompt_spatial_cons": 2, "prompt_spatial_ref_img": 2, "prompt_spatial_qual": 1},
        ),
        ({**TEMPORAL, "consistency_free": True}, {"prompt_reasoning": 1, "prompt_generation": 1}),
        ({**LOGICAL, "reference_txt": "42"}, {"prompt_logical_cons_ans": 2, "prompt_logical_txt": 1}),
        ({**LOGICAL, "reference_img": "r.png"}, {"prompt_logical_cons": 2, "prompt_logical_img": 2}),
        (
            {**LOGICAL, "reference_img": "r.png", "fields": ["category", "reasoning_wo_ins"]},
            {"prompt_logical_cons": 2, "prompt_logical_img_wo_q": 2},
        ),
    ],
)
async def test_the_requests_of_each_kind_of_task(
    tmp_path: Path, metadata: dict[str, Any], asked: dict[str, int]
) -> None:
    found, server = await judged(tmp_path, metadata, **dict.fromkeys(asked, 5))
    sent = {words_of(r)[0].partition(">")[0].removeprefix("<"): words_of(r).count("IMAGE") for r in server.requests}
    assert sent == asked
    assert found.value == 100.0
    assert found.aspects.keys() - {"solved"} == lowest(metadata).keys()


async def test_a_logical_task_is_right_or_wrong(tmp_path: Path) -> None:
    metadata = {**LOGICAL, "reference_txt": "42"}
    found, _ = await judged(tmp_path, metadata, prompt_logical_cons_ans=1, prompt_logical_txt=0)
    assert found.aspects == {"solved": 0.0, "consistency": 1.0, "reasoning": 0.0}


async def test_a_task_without_its_reference_is_not_scored(tmp_path: Path) -> None:
    with pytest.raises(EvaluatorError, match="has no reference"):
        await judged(tmp_path, {"category": "causal_reasoning"})
    with pytest.raises(EvaluatorError, match="no category 'astral'"):
        await judged(tmp_path, {"category": "astral"})


@pytest.mark.parametrize(
    ("text", "number"),
    [("**Final Score:** **4**", 4), ("Final Score: 2\n", 2), ("final score 5", 5), ("**Final Scores**: 3, 4", 3)],
)
def test_the_final_score_is_found(text: str, number: int) -> None:
    assert read_final(text) == number


def test_no_final_score_is_none() -> None:
    with pytest.raises(BrokenReply):
        read_final("**Final Score:** none, 3 of 5")


def row(id_: str, metadata: dict[str, Any], **ratings: float) -> Row:
    return Row(id_, str(metadata["category"]), score(ratings, metadata)[1], metadata)


ROWS = [
    row("a", TEMPORAL, consistency=5, reasoning=5, plausibility=5),  # score 5
    row("b", TEMPORAL, consistency=4, reasoning=3, plausibility=5),  # 1.2 + 1.5 + 1 = 3.7
    row("c", SPATIAL, consistency=5, reasoning=1, plausibility=5),  # (1.5 + 0.5 + 1) / 2 = 1.5
    row("d", LOGICAL, consistency=5, reasoning=1),  # (1.5 + 0.7) / 2 = 1.1
]


def test_accuracy_is_the_share_of_solved_tasks_and_scores_are_weighted() -> None:
    found = {(f["name"], f["group"]): f["mean"] for f in map(figure, measures(ROWS))}
    assert found["accuracy", None] == 25.0
    assert found["accuracy", "temporal_reasoning"] == 50.0
    assert found["score", None] == pytest.approx(25 * ((5 + 3.7 + 1.5 + 1.1) / 4 - 1))
    assert found["reasoning", None] == pytest.approx(25 * ((5 + 3 + 1 + 1) / 4 - 1))
    assert found["plausibility", None] == 100.0
    assert ("plausibility", "logical_reasoning") not in found


def test_one_entry_with_the_field_changes_the_scores_of_the_others_as_in_the_script() -> None:
    fields = {"fields": ["category", "consistency_free"]}
    rows = [Row(r.task, r.group, r.aspects, {**r.metadata, **fields}) for r in ROWS]
    found = {(f["name"], f["group"]): f["mean"] for f in map(figure, measures(rows))}
    assert found["accuracy", None] == 25.0
    # 0.8 reasoning + 0.2 plausibility: 5, 3.4, (0.8 + 1) / 2 = 0.9 and so 1, and the logical one as before.
    assert found["score", None] == pytest.approx(25 * ((5 + 3.4 + 1 + 1.1) / 4 - 1))
