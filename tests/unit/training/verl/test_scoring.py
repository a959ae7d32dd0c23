"""From a chain to its reward: honest edits earn more, credit adds up, and what cannot be scored gets no number."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.agents import Trajectory, reward
from agentfly.datasets import EditTask
from agentfly.errors import EvaluatorError
from agentfly.evaluators import EditSample, GuardSettings, Score
from agentfly.images import ImageStore
from agentfly.templates import ChatCodec
from agentfly.training.metrics.chain_report import turn_results
from agentfly.training.recipe.settings import AuditNode, DataSettings, TrainSettings
from agentfly.training.verl.messages import ScoredChain
from agentfly.training.verl.scoring import ChainScorer, images_needed, reward_info
from tests.unit.training.chains import ANSWER, ANSWER_SOURCE, bad_edit, call, good_edit, roll, task_of
from tests.values import given


def settings(**values: Any) -> TrainSettings:
    return TrainSettings(model="m", out=Path("o"), data=DataSettings(train="stickers"), **values)


@pytest.fixture(scope="module")
def task() -> EditTask:
    return task_of()


class Refuses:
    """An evaluator that scores nothing; used by name."""

    async def evaluate(self, sample: EditSample) -> Score:
        raise EvaluatorError("the judge refuses")


REFUSES = f"{__name__}:Refuses"


class Counts:
    """An evaluator that never says the same twice, as a judge; used by name."""

    asked = 0

    async def evaluate(self, sample: EditSample) -> Score:
        Counts.asked += 1
        return Score(10.0 * Counts.asked)


COUNTS = f"{__name__}:Counts"


async def test_an_honest_edit_earns_more_than_a_bad_one_and_both_more_than_none(task: EditTask) -> None:
    rewards = []
    for texts in ([good_edit(task), ANSWER], [bad_edit(), ANSWER], [ANSWER_SOURCE], ["no"]):
        trajectory, store = await roll(task, texts)
        await ChainScorer(settings()).score(trajectory, task, store)
        assert trajectory.reward == pytest.approx(sum(trajectory.reward_parts.values()))
        rewards.append(given(trajectory.reward))
    good, bad, untouched, silent = rewards
    assert good > 0.8
    assert good > bad >= untouched > silent
    assert untouched == 0.0


async def test_a_dearer_tool_lowers_the_reward(task: EditTask) -> None:
    trajectory, store = await roll(task, [good_edit(task), ANSWER])
    await ChainScorer(settings()).score(trajectory, task, store)
    free = given(trajectory.reward)
    await ChainScorer(settings(reward={"tool_cost": 0.1, "free_tool_calls": 0})).score(trajectory, task, store)
    assert trajectory.reward == pytest.approx(free - 0.2)
    assert trajectory.reward_parts["tool_cost"] == pytest.approx(-0.2)


@pytest.mark.parametrize("placement", ["end", "even"])
async def test_credit_adds_up_and_goes_to_the_turn_that_earned(
    placement: str, task: EditTask, policy_codec: ChatCodec
) -> None:
    looking = call("detect_objects", image_id="img_1", text_prompt="a dog")
    spoiling = bad_edit().replace("img_1", "img_2")
    texts = [looking, good_edit(task), spoiling, ANSWER.replace("img_2", "img_3")]
    trajectory, store = await roll(task, texts, policy_codec)
    scorer = ChainScorer(settings(credit=placement))
    scoring = await scorer.score(trajectory, task, store, turn_results(trajectory))
    rewards = scoring.token_rewards
    assert rewards is not None
    assert trajectory.tokens is not None
    assert len(rewards) == len(trajectory.tokens.response_ids)
    assert sum(rewards) == pytest.approx(trajectory.reward)
    looked, edited, spoiled, _ = (sum(rewards[turn.start : turn.end]) for turn in trajectory.turns)
    assert looked == 0.0
    assert edited > 0.8
    assert spoiled < -0.2
    assert all(reward == 0.0 for reward, mask in zip(rewards, trajectory.tokens.mask, strict=True) if not mask)
    first, last = trajectory.turns[1].start, trajectory.turns[1].end
    assert (rewards[first] == 0.0) is (placement == "end")
    assert rewards[last - 1] > 0.0


async def test_no_image_is_scored_twice(
    task: EditTask, policy_codec: ChatCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counts, "asked", 0)
    spoiling = bad_edit().replace("img_1", "img_2")
    trajectory, store = await roll(task, [good_edit(task), spoiling, ANSWER.replace("img_2", "img_3")], policy_codec)
    scorer = ChainScorer(settings(credit="end", evaluator=COUNTS))
    scoring = await scorer.score(trajectory, task, store, turn_results(trajectory))
    assert Counts.asked == 2
    assert trajectory.reward is not None
    # The answer got 10, the image before it 20.
    assert scoring.token_rewards is not None
    first, second, last = (scoring.token_rewards[turn.end - 1] for turn in trajectory.turns)
    assert (first, second, last) == pytest.approx((0.2, -0.1, given(trajectory.reward) - 0.1))


async def test_without_credit_all_of_it_goes_to_the_end(task: EditTask, policy_codec: ChatCodec) -> None:
    trajectory, store = await roll(task, [good_edit(task), ANSWER], policy_codec)
    scoring = await ChainScorer(settings()).score(trajectory, task, store, turn_results(trajectory))
    assert scoring.token_rewards is None
    assert scoring.audit is None


async def test_what_cannot_be_scored_gets_no_number(task: EditTask) -> None:
    trajectory, store = await roll(task, [good_edit(task), ANSWER])
    with pytest.raises(EvaluatorError, match="the judge refuses"):
        await ChainScorer(settings(evaluator=REFUSES)).score(trajectory, task, store)
    assert trajectory.score is None
    assert trajectory.reward is None


async def test_the_audit_looks_with_other_eyes_and_changes_no_reward(task: EditTask) -> None:
    trajectory, store = await roll(task, [good_edit(task), ANSWER])
    audit = AuditNode(evaluator="structural", settings={"share": 1.0})
    await ChainScorer(settings()).score(trajectory, task, store)
    alone = trajectory.reward
    scoring = await ChainScorer(settings(audit=audit)).score(trajectory, task, store)
    assert trajectory.reward == alone
    assert scoring.audit is not None
    assert 0 <= scoring.audit <= 100
    assert scoring.audit != trajectory.score


async def test_an_audit_that_fails_is_marked_as_such(task: EditTask) -> None:
    trajectory, store = await roll(task, [good_edit(task), ANSWER])
    audit = AuditNode(evaluator=REFUSES, settings={"share": 1.0, "guard": GuardSettings(attempts=1)})
    scoring = await ChainScorer(settings(audit=audit)).score(trajectory, task, store)
    assert scoring.audit is not None
    assert math.isnan(scoring.audit)
    assert trajectory.reward is not None


async def test_only_a_share_is_audited(task: EditTask) -> None:
    trajectory, store = await roll(task, [ANSWER_SOURCE])
    scorer = ChainScorer(settings(audit=AuditNode(evaluator="structural", settings={"share": 0.5})))
    audited = [(await scorer.score(trajectory, task, store, step=step)).audit is not None for step in range(40)]
    assert 8 < sum(audited) < 32


async def test_only_what_is_scored_is_sent(task: EditTask) -> None:
    more = bad_edit().replace("img_1", "img_2")
    trajectory, _ = await roll(task, [good_edit(task), more, ANSWER.replace("img_2", "img_3")])
    first, last, _ = turn_results(trajectory)
    assert images_needed(trajectory, settings()) == {last}
    assert images_needed(trajectory, settings(credit="end")) == {first, last}
    nothing, _ = await roll(task, ["no"])
    assert images_needed(nothing, settings(credit="end")) == set()


async def test_scores_come_back_from_another_process(task: EditTask) -> None:
    trajectory, store = await roll(
        task, [call("detect_objects", image_id="img_9", text_prompt="x"), good_edit(task), ANSWER]
    )
    there = Trajectory.from_json(trajectory.to_json())
    answer = (await ChainScorer(settings()).score(there, task, store)).to_answer()
    scored = ScoredChain.from_answer(json.loads(json.dumps(answer)))
    assert isinstance(scored, ScoredChain)
    scored.write_on(trajectory)
    assert trajectory == Trajectory.from_json(there.to_json())
    info = reward_info(trajectory)
    assert info["score"] == trajectory.score
    assert info["part/failed"] == pytest.approx(-0.01)
    assert (info["tool_calls"], info["failed_calls"], info["answered"]) == (3.0, 1.0, 1.0)
    assert info["look_calls"] == 1.0
    assert all(isinstance(value, float) for value in info.values())


async def test_an_image_that_was_not_sent_is_an_error_and_no_zero(task: EditTask) -> None:
    trajectory, _ = await roll(task, [good_edit(task), ANSWER])
    with pytest.raises(Exception, match="no image"):
        await ChainScorer(settings()).score(trajectory, task, ImageStore())
    assert trajectory.reward is None


@reward
def centred(
    final_image: Image.Image | None, source_image: Image.Image, steps: list[dict[str, str]]
) -> dict[str, float]:
    """A reward function; used by name."""
    changed = final_image is not None and final_image.tobytes() != source_image.tobytes()
    return {"reward": 1.5 * changed, "steps": len(steps)}


@reward
def doubled(score: float) -> float:
    return 2 * score


def by_function(name: str, **values: Any) -> TrainSettings:
    return settings(reward=f"{__name__}:{name}", **values)


async def test_a_reward_function_gives_the_reward_of_training(task: EditTask) -> None:
    trajectory, store = await roll(task, [good_edit(task), ANSWER])
    chosen = by_function("centred", evaluator=REFUSES)  # nobody asks the evaluator
    needed = images_needed(trajectory, chosen)
    assert needed == {trajectory.images[0], trajectory.final_image}
    sent = ImageStore()
    sent.copy_from(store, needed)
    answer = await ChainScorer(chosen).score(trajectory, task, sent)
    # More than 1 is a reward as good as any; the score for the tables ends at 100.
    assert (answer.reward, answer.score) == (1.5, 100.0)
    assert answer.parts == {"steps": 1.0}
    assert reward_info(trajectory)["part/steps"] == 1.0


async def test_a_reward_function_may_build_on_the_evaluator(task: EditTask) -> None:
    trajectory, store = await roll(task, [good_edit(task), ANSWER])
    answer = await ChainScorer(by_function("doubled", evaluator="reference")).score(trajectory, task, store)
    honest, _ = await roll(task, [good_edit(task), ANSWER])
    wanted = await ChainScorer(settings()).score(honest, task, store)
    assert answer.reward == pytest.approx(2 * given(wanted.score))


async def test_a_chain_without_a_reward_is_not_scored(task: EditTask) -> None:
    trajectory, store = await roll(task, [good_edit(task), ANSWER])
    with pytest.raises(EvaluatorError, match="the judge refuses"):
        await ChainScorer(by_function("doubled", evaluator=REFUSES)).score(trajectory, task, store)
    other = EditTask("x", "Do it.", task.images)
    with pytest.raises(EvaluatorError, match="unknown argument of the reward function 'steps'"):
        await ChainScorer(by_function("centred")).score((await roll(other, ["No."]))[0], other, store)


@reward
def by_columns(metadata: dict[str, Any], id: str, **columns: Any) -> float:
    assert columns["steps"] == metadata["steps"]
    assert columns["task_type"] == metadata["task_type"]
    assert id == metadata["id"]
    return len(columns["steps"])


async def test_a_reward_function_may_take_all_columns_of_a_row(task: EditTask) -> None:
    trajectory, store = await roll(task, [good_edit(task), ANSWER])
    answer = await ChainScorer(by_function("by_columns")).score(trajectory, task, store)
    assert answer.reward == len(task.metadata["steps"])


@reward
def by_words(prediction: str | None) -> float:
    return 0.25


async def test_an_audit_of_a_task_without_images_costs_no_reward(task: EditTask) -> None:
    trajectory, store = await roll(task, [good_edit(task), ANSWER])
    chosen = by_function("by_words", audit=AuditNode(evaluator="structural", settings={"share": 1.0}))
    answer = await ChainScorer(chosen).score(trajectory, EditTask("t", "Add.", ()), store)
    assert answer.reward == 0.25
    assert answer.audit is not None
    assert math.isnan(answer.audit)
