"""An instruction becomes questions once; a detector answers each, or the judge by its probability of yes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from agentfly.datasets import StickerWorld
from agentfly.errors import EvaluatorError
from agentfly.evaluators import EditSample, Score, make_evaluator
from agentfly.evaluators.judge.decomposed import QuestionJudge, QuestionSettings
from agentfly.evaluators.judge.questions import AnswerQuestions, Decompose, EditQuestion, read_questions
from agentfly.evaluators.judge.replies import BrokenReply, Token, chance_of_yes
from agentfly.evaluators.measured.detector_checked import DetectorCheckedEvaluator
from agentfly.images import load_image
from agentfly.vision import make_engines
from tests.unit.evaluators.scripted_judge import Judge, Reply, judge, schema_name

TASK = StickerWorld().task(0, "heldout", "named")
WORDS = TASK.metadata["steps"][0]["detect"]
SOURCE, DONE = (load_image(source) for source in (TASK.images[0], TASK.target or ""))
BRIGHT = Image.eval(SOURCE, lambda value: min(255, value + 40))
MADE = [
    {"ask": "Is the sticker gone?", "weight": 3, "check": {"kind": "gone", "object": WORDS, "colour": ""}},
    {"ask": "Is everything else as it was?", "weight": 2, "check": {"kind": "none", "object": "", "colour": ""}},
    {"ask": "Does it look natural?", "weight": 1, "check": {"kind": "gone", "object": "a unicorn", "colour": ""}},
]


def script(request: dict[str, Any], number: int) -> Reply:
    if schema_name(request) == "edit_questions":
        return Reply(json.dumps({"questions": MADE}))
    asked = request["response_format"]["json_schema"]["schema"]["required"][1:]
    return Reply(json.dumps({"feedback": "I looked.", **dict(zip(asked, ("yes", "no", "no"), strict=False))}))


async def no_wait(seconds: float) -> None:
    """Tests wait for nothing."""


def make(server: Judge, *, detector: bool = True, **settings: Any) -> QuestionJudge:
    client = openai.AsyncOpenAI(
        api_key="k", base_url=server.base_url, max_retries=0, http_client=httpx2.AsyncClient(verify=False)
    )
    checks = DetectorCheckedEvaluator(make_engines("classical").detector) if detector else None
    given = QuestionSettings(model="m", base_url=server.base_url, attempts=2, **settings)
    return QuestionJudge(given, checks, client=client, sleep=no_wait)


def sample(result: Image.Image | None, **metadata: object) -> EditSample:
    return EditSample(TASK.instruction, SOURCE, result, mask=TASK.mask, metadata=metadata)  # type: ignore[arg-type]


async def test_a_detector_answers_what_it_can_and_the_judge_the_rest() -> None:
    with judge(script) as server:
        tested = make(server)
        scores = [await tested.evaluate(sample(image)) for image in (DONE, BRIGHT)]
    # Gone by the detector (weight 3), kept by the judge's yes (2), natural by its no (1).
    assert [score.value for score in scores] == pytest.approx([100 * 5 / 6, 100 * 2 / 6])
    assert scores[1].aspects == {MADE[0]["ask"]: 0.0, MADE[1]["ask"]: 1.0, MADE[2]["ask"]: 0.0}
    assert scores[0].feedback == "I looked. Not so: Does it look natural?"
    # The instruction is decomposed once.
    assert [schema_name(request) for request in server.requests] == ["edit_questions", *["edit_answers"] * 2]
    assert "Is the sticker gone?" not in server.requests[1]["messages"][0]["content"][-1]["text"]
    assert server.requests[1]["logprobs"] is True


async def test_without_a_detector_the_judge_answers_all() -> None:
    with judge(script) as server:
        score = await make(server, detector=False).evaluate(sample(BRIGHT))
    assert score.aspects == {MADE[0]["ask"]: 1.0, MADE[1]["ask"]: 0.0, MADE[2]["ask"]: 0.0}


async def test_the_questions_are_kept_with_the_task_for_all_processes(tmp_path: Path) -> None:
    with judge(script) as server:
        first = await make(server, cache=tmp_path / "q").evaluate(sample(DONE))
        again = await make(server, cache=tmp_path / "q").evaluate(sample(DONE))
        names = [schema_name(request) for request in server.requests]
    assert first == again
    assert names.count("edit_questions") == 1
    [file] = (tmp_path / "q").iterdir()
    kept = json.loads(file.read_text())
    assert kept["instruction"] == TASK.instruction
    assert kept["questions"][0] == {"ask": MADE[0]["ask"], "weight": 3.0, "check": {"gone": WORDS}}
    file.write_text("{}")
    with judge(script) as server, pytest.raises(EvaluatorError, match="holds no questions"):
        await make(server, cache=tmp_path / "q").evaluate(sample(DONE))


async def test_questions_and_checks_of_the_data_set_cost_no_request_for_them() -> None:
    questions = ["Is it as asked?", {"ask": "Gone?", "weight": 3, "check": {"gone": WORDS, "present": None}}]
    with judge(script) as server:
        tested = make(server)
        score = await tested.evaluate(sample(DONE, questions=questions, checks=[{"gone": WORDS}]))
        assert score.aspects == {"Is it as asked?": 1.0, "Gone?": 1.0}
        alone = await tested.evaluate(sample(DONE, questions=questions[1:]))
        assert (alone.value, len(server.requests)) == (100.0, 1)
        with pytest.raises(EvaluatorError, match="has a wrong entry"):
            await tested.check_sample(sample(None, questions=[{"ask": "?", "check": {"went": "x"}}]))
    assert [q.ask for q in read_questions(["a", "a", "b"])] == ["a", "b"]


async def test_a_copy_and_nothing_are_worth_nothing_and_cost_nothing() -> None:
    with judge(script) as server:
        tested = make(server)
        assert [(await tested.evaluate(sample(image))).value for image in (SOURCE.copy(), None)] == [0.0, 0.0]
        assert server.requests == []


def token(text: str, **others: float) -> Token:
    rest = 1.0 - sum(others.values())
    return Token(text, tuple((word, math.log(chance)) for word, chance in {text: rest, **others}.items()))


def test_an_answer_is_the_probability_of_yes() -> None:
    form = AnswerQuestions((EditQuestion(ask="a?"), EditQuestion(ask="b?")))
    tokens = [
        token('{"feedback": "no", '),
        *(token('"answer_1"'), token(":"), token(' "yes', **{' "no': 0.25, " maybe": 0.2}), token('", ')),
        *(token('"answer_2": "'), token("n", y=0.3), token("o"), token('"}')),
    ]
    text = "".join(one.text for one in tokens)
    answers = form.read(text, tokens)
    assert answers.yes == pytest.approx((0.55 / 0.8, 0.3))
    assert form.read(text, ()).yes == (1.0, 0.0)
    assert chance_of_yes(tokens, "answer_3") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"questions": []}', "there are 0 questions"),
        ('{"questions": [{"weight": 1}]}', "has no ask"),
        ('{"questions": [{"ask": "", "weight": 1}]}', "a question is wrong"),
        ('{"questions": "none"}', "not a list"),
        (json.dumps({"questions": [{"ask": str(n)} for n in range(5)]}), "1 to 4 are wanted"),
    ],
)
def test_what_are_no_questions_is_asked_again(text: str, reason: str) -> None:
    with pytest.raises(BrokenReply, match=reason):
        Decompose(4).read(text, ())


def test_an_answer_that_is_neither_is_asked_again() -> None:
    with pytest.raises(BrokenReply, match="neither yes nor no"):
        AnswerQuestions((EditQuestion(ask="a?"),)).read('{"feedback": "", "answer_1": "partly"}', ())


def test_it_is_made_by_name() -> None:
    made = make_evaluator({"evaluator": "questions", "model": "m", "detector": None})
    assert isinstance(made, QuestionJudge)
    assert Score(1.0) == Score(1.0, "", {}, relative=False)
