"""Evaluators of a run: specs as people write them, explicit "not scored", and books for judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.agents import StopReason, Trajectory, reward
from agentfly.errors import ConfigError
from agentfly.evaluation import TaskFacts
from agentfly.evaluation.scoring import Scorer, read_specs
from agentfly.evaluators import NotScored, Score
from agentfly.images import ImageStore
from tests.unit.evaluation.agents import BRIGHTNESS, solved, task
from tests.unit.evaluators.scripted_judge import Reply, judge, said


def test_short_forms_are_mappings() -> None:
    specs = read_specs(
        ["reference", "judge:gpt-5", "judge:m,base_url=http://h:1/v1,passes=2", '{"evaluator": "http", "name": "own"}']
    )
    assert specs == {
        "reference": {"evaluator": "reference"},
        "judge": {"evaluator": "judge", "model": "gpt-5"},
        "judge.2": {"evaluator": "judge", "model": "m", "base_url": "http://h:1/v1", "passes": 2},
        "own": {"evaluator": "http"},
    }
    assert read_specs(["my_module:Mine"]) == {"my_module:Mine": {"evaluator": "my_module:Mine"}}


def test_a_file_holds_one_or_several(tmp_path: Path) -> None:
    (tmp_path / "both.yaml").write_text("- evaluator: reference\n- evaluator: judge\n  model: m\n  name: strict\n")
    assert list(read_specs([str(tmp_path / "both.yaml")])) == ["reference", "strict"]
    (tmp_path / "one.json").write_text('{"evaluator": "structural"}')
    assert list(read_specs([str(tmp_path / "one.json")])) == ["structural"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "no evaluator is named"),
        (["nowhere.yaml"], "cannot read the evaluator file 'nowhere.yaml'"),
        (["{oops"], "the evaluator given as JSON is not valid YAML"),
        (['{"model": "m"}'], 'a mapping with "evaluator"'),
    ],
)
def test_a_spec_that_cannot_be_read_is_named(given: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_specs(given)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"evaluator": "refrence"}, "Did you mean 'reference'"),
        ({"evaluator": "reference", "guard": {"in_flight": 0}}, "in_flight: "),
    ],
)
def test_an_evaluator_that_cannot_be_made_is_named(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Scorer({"x": spec})


async def scored(*specs: Any, **trajectory: Any) -> tuple[Any, Any, Any]:
    store = ImageStore()
    made = solved(task(1), store, **trajectory)
    scores, judges = await Scorer(read_specs(specs)).score(TaskFacts.keep(task(1), store), made, store)
    return made, scores, judges


async def test_the_first_evaluator_is_the_headline() -> None:
    made, scores, judges = await scored(BRIGHTNESS, "structural")
    assert made.score == scores[BRIGHTNESS].value == 100.0
    assert made.aspects == {"grey": 1.0}
    assert isinstance(scores["structural"], Score)
    assert judges == {}


async def test_an_evaluator_without_a_score_is_not_scored_and_the_others_are() -> None:
    made, scores, _ = await scored(BRIGHTNESS, "structural", final_image=None)
    assert scores[BRIGHTNESS] == NotScored("there is no result to look at")
    assert made.score is None
    assert isinstance(scores["structural"], Score)


async def test_a_fault_of_the_agent_is_not_scored() -> None:
    _, scores, _ = await scored(BRIGHTNESS, stop_reason=StopReason.BACKEND_ERROR, error="the server is down")
    assert scores == {BRIGHTNESS: NotScored("the agent failed: the server is down")}


async def test_an_image_that_was_not_kept_is_not_scored() -> None:
    _, scores, _ = await scored(BRIGHTNESS, final_image="img_0123456789ab")
    assert "no image 'img_0123456789ab'" in scores[BRIGHTNESS].reason


def ratings(request: dict[str, Any], number: int) -> Reply:
    fields = request["response_format"]["json_schema"]["schema"]["properties"]
    return said(**{name: 8 for name in fields if name != "feedback"})


async def test_judges_are_booked_in_composites_too_and_their_failures_as_well() -> None:
    with judge(ratings) as good, judge(Reply("I cannot help with that.")) as bad:
        spec = {"evaluator": "judge", "model": "m", "input_price": 1.0, "attempts": 2}
        parts = {"seen": {**spec, "base_url": good.base_url}, "kept": "structural"}
        _, scores, judges = await scored(
            {"evaluator": "composite", "how": "minimum", "parts": parts},
            {**spec, "base_url": bad.base_url, "scheme": "simple"},
        )
    assert judges["composite"].requests == len(good.requests) == 2
    assert judges["composite"].cost == pytest.approx(2 * 1000 / 1e6)
    assert isinstance(scores["judge"], NotScored)
    assert (judges["judge"].failed, judges["judge"].not_scored) == (len(bad.requests), 1)
    assert judges["judge"].prompt_tokens == 1000 * len(bad.requests)
    assert json.dumps(scores["judge"].reason)


@reward
def steady(trajectory: Trajectory, final_image: Image.Image, target: Image.Image, shade: int) -> dict[str, float]:
    """A reward of the whole chain; used by name."""
    same = final_image.tobytes() == target.tobytes()
    return {"reward": 0.5 * same, "turns": len(trajectory.turns), "shade": shade}


@reward
def halved(score: float, aspects: dict[str, float]) -> dict[str, float]:
    return {"reward": score / 200, "score": score / 2, "grey": aspects["grey"]}


@reward
def failing(trajectory: Trajectory) -> float:
    raise ValueError("no reward today")


def by(function: str) -> dict[str, str]:
    return {"reward": f"{__name__}:{function}"}


async def scored_task(*specs: Any, **metadata: Any) -> tuple[Any, Any]:
    store = ImageStore()
    made, asked = solved(task(1), store), task(1, metadata=metadata)
    scores, _ = await Scorer(read_specs(specs)).score(TaskFacts.keep(asked, store), made, store)
    return made, scores


async def test_a_reward_function_sees_the_chain_and_the_columns_of_the_task() -> None:
    made, scores = await scored_task(by("steady"), BRIGHTNESS, shade=3)
    assert scores[f"{__name__}:steady"] == Score(50.0, aspects={"reward": 0.5, "turns": 1.0, "shade": 3.0})
    assert (made.score, made.reward, made.reward_parts) == (50.0, 0.5, {"turns": 1.0, "shade": 3.0})
    assert isinstance(scores[BRIGHTNESS], Score)


async def test_a_reward_function_may_ask_for_the_evaluators_score() -> None:
    _, scores = await scored_task(by("halved"), BRIGHTNESS)
    assert scores[f"{__name__}:halved"].value == 50.0
    _, scores = await scored_task(by("halved"))
    assert "name one with --evaluator" in scores[f"{__name__}:halved"].reason


async def test_the_score_that_a_reward_function_builds_on_is_never_that_of_another_one() -> None:
    _, scores = await scored_task(by("steady"), by("halved"), shade=3)
    assert "name one with --evaluator" in scores[f"{__name__}:halved"].reason


async def test_a_reward_function_that_fails_gives_no_score_and_names_its_line() -> None:
    made, scores = await scored_task(by("failing"), BRIGHTNESS)
    assert scores[f"{__name__}:failing"].reason.startswith(f"no reward: ValueError: no reward today ({__file__}:")
    assert (made.score, made.reward) == (None, None)


async def test_columns_that_a_reward_function_lacks_are_told_before_the_run() -> None:
    scorer = Scorer(read_specs([by("steady")]))
    await scorer.check_tasks([task(1, metadata={"shade": 1})])
    with pytest.raises(ConfigError, match="unknown argument of the reward function 'shade'"):
        await scorer.check_tasks([task(1)])
