"""ImgEdit-Bench: one request a sample with the prompt of its type, and the averages, against figures by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfly.errors import EvaluatorError
from agentfly.evaluation.protocols.base import Row
from agentfly.evaluation.protocols.figures import figure
from agentfly.evaluation.protocols.imgedit import measures, read_average, score
from agentfly.evaluators import EditSample
from agentfly.evaluators.judge.replies import BrokenReply
from tests.unit.evaluation.protocols.authors import grey, imgedit_prompts, protocol_judge, words_of
from tests.unit.evaluators.scripted_judge import Reply, judge

REPLY = "Brief reasoning: Mostly there: a seam.\nPrompt Compliance: 5\nVisual Seamlessness: 4\nPhysical Fidelity: 4"


async def test_a_sample_is_asked_by_the_prompt_of_its_type(tmp_path: Path) -> None:
    sample = EditSample("Make it red.", grey(9), grey(200), metadata={"original_task_type": "adjust"})
    with judge(Reply(REPLY)) as server:
        tested = protocol_judge(server, "imgedit", imgedit_prompts(tmp_path))
        found = await tested.evaluate(sample)
        with pytest.raises(EvaluatorError, match="have none for the type 'dance'"):
            await tested.evaluate(EditSample("x", grey(9), grey(9), metadata={"original_task_type": "dance"}))
        uge = protocol_judge(server, "imgedit", tmp_path, "uge")
        await uge.evaluate(EditSample("Make it red.", grey(9), grey(200)))
    # (5 + 4 + 4) / 3, rounded to two places, on a scale from 1 to 5.
    assert found.value == pytest.approx(100 * (4.33 - 1) / 4)
    assert [words_of(request)[0] for request in server.requests] == ["RATE adjust: Make it red.", "UGE Make it red."]
    assert words_of(server.requests[0])[1:] == ["IMAGE", "IMAGE"]
    assert server.requests[0].keys() == {"model", "messages"}
    assert server.requests[0]["model"] == "gpt-4o"


@pytest.mark.parametrize(
    ("text", "average"), [(REPLY, 4.33), ("A: 1\nB: 2", 1.5), ("A: 3 of 5\nB: 2", 2.0), ("A: 5\r\nB: x: 1", 5.0)]
)
def test_numbers_at_the_ends_of_lines_are_averaged(text: str, average: float) -> None:
    assert read_average(text) == average


@pytest.mark.parametrize("text", ["", "five", "A: 0", "A: 6\nB: 2"])
def test_what_is_no_rating_is_none(text: str) -> None:
    with pytest.raises(BrokenReply):
        read_average(text)


def test_overall_is_the_mean_of_the_types() -> None:
    given = [("a", "style", 4.33), ("b", "style", 1.67), ("c", "adjust", 5.0)]
    rows = [Row(id_, group, score({"score": value}, {})[1], {}) for id_, group, value in given]
    found = {(f["name"], f["group"]): f["mean"] for f in map(figure, measures(rows))}
    assert found == {
        ("overall", None): 4.0,
        ("mean of all samples", None): pytest.approx(11 / 3, abs=1e-6),
        ("score", "adjust"): 5.0,
        ("score", "style"): 3.0,
    }
