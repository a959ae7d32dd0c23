"""A chain's view: what each call, turn and score shows, for good lines and for broken ones."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from agentfly.agents.tasks import TaskFacts
from agentfly.agents.trajectory import StopReason, ToolRecord, Turn
from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.evaluators import NotScored, Score
from agentfly.evaluators.judge.settings import JudgeUsage
from agentfly.images import ImageStore
from agentfly.messages import Message, TextPart, ToolCall
from agentfly.viewer.chain.scores import reward_of
from agentfly.viewer.chain.view import STOPS, Shot, view_chain
from agentfly.viewer.chain.words import Cutter, pretty, visible
from tests.unit.viewer.chain.lines import earlier, edit, line_of, picture, trajectory


@pytest.fixture
def store() -> ImageStore:
    return ImageStore()


def test_an_edit_shows_source_and_result_by_their_names(store: ImageStore) -> None:
    view = view_chain(line_of(trajectory(store)))
    first, answer = view.calls
    assert (first.before, first.after) == (view.images[0], view.final)
    assert first.before is not None
    assert first.before.name == "img_1"
    assert first.arguments[1][0] == "prompt"
    assert first.arguments[1][1].shown == "remove red"
    # The answer names the image that it gives: there is nothing to compare.
    assert answer.before is None
    assert answer.after == view.final
    assert answer.observation is None
    assert first.observation is not None
    assert first.observation.parts[0].shown == "seen 0.0"  # type: ignore[union-attr]


def test_the_mask_of_a_detection_and_that_of_an_inpainting(store: ImageStore) -> None:
    source, mask = store.put(picture()), store.put(picture().convert("L"))
    looks = ToolRecord("detect_objects", {"image_id": "img_1"}, 0.1, data={}, images=(mask,), looks=True)
    paint = ToolRecord("inpaint_image", {"image_id": "img_1", "mask_id": "mask_1"}, 0.1, data={"source": source})
    auto = ToolRecord("auto_inpaint_image", {"image_id": "img_1"}, 0.1, data={"source": source, "mask": mask})
    chain = trajectory(store, [[looks, paint, auto]], names={"img_1": source, "mask_1": mask})
    detected, painted, both = view_chain(line_of(chain)).calls
    assert (detected.mask, detected.after) == (Shot(mask, "mask_1"), None)
    assert painted.mask == both.mask == Shot(mask, "mask_1")
    # An edit that changed nothing gives no image: what is after is what was before.
    assert painted.before == painted.after == Shot(source, "img_1")


def test_several_calls_of_a_turn_have_their_own_observations(store: ImageStore) -> None:
    source, result = store.put(picture()), store.put(picture(None))
    calls = [edit(source, result), edit(source, result, error="no such image", images=()), edit(source, result)]
    turn, _ = view_chain(line_of(trajectory(store, [calls, []]))).turns
    assert [call.observation.parts[0].shown for call in turn.calls if call.observation] == [  # type: ignore[union-attr]
        "seen 0.0",
        "seen 0.1",
        "seen 0.2",
    ]
    assert turn.calls[1].error is not None
    assert turn.calls[1].error.shown == "no such image"
    assert turn.asked == 3


def test_observations_out_of_order_are_told_apart_by_their_call(store: ImageStore) -> None:
    source, result = store.put(picture()), store.put(picture(None))
    chain = trajectory(store, [[edit(source, result), edit(source, result)], []])
    chain.messages[2], chain.messages[3] = chain.messages[3], chain.messages[2]
    turn = view_chain(line_of(chain)).turns[0]
    assert [call.observation.parts[0].shown for call in turn.calls if call.observation] == [  # type: ignore[union-attr]
        "seen 0.0",
        "seen 0.1",
    ]


def test_calls_that_were_not_carried_out_are_counted(store: ImageStore) -> None:
    chain = trajectory(store)
    asked = tuple(ToolCall(f"c{i}", "qwen_edit_image") for i in range(5))
    chain.messages[1] = replace(chain.messages[1], tool_calls=asked)
    assert view_chain(line_of(chain)).turns[0].asked == 5


def test_turns_of_an_earlier_conversation_belong_to_the_prompt(store: ImageStore) -> None:
    chain = trajectory(store)
    chain.messages = [*earlier("user", "assistant", "user", "assistant"), *chain.messages]
    view = view_chain(line_of(chain))
    assert [said.role for said in view.prompt] == ["user", "assistant", "user", "assistant", "user"]
    assert view.turns[0].calls[0].observation is not None


def test_a_chain_without_turns_and_messages(store: ImageStore) -> None:
    chain = trajectory(store, [], turns=[], messages=[], images=[], names={}, final_image=None, stop_reason=None)
    view = view_chain(line_of(chain))
    assert (view.turns, view.prompt, view.handles, view.final) == ((), (), (), None)
    assert view.stop_words == STOPS[None]
    assert view.failed


def test_a_failed_chain_of_texts_alone(store: ImageStore) -> None:
    chain = trajectory(
        store,
        [[]],
        messages=[Message("user", (TextPart("Say a word."),))],
        images=[],
        names={},
        final_image=None,
        stop_reason=StopReason.BACKEND_ERROR,
        error="no answer",
    )
    view = view_chain(line_of(chain))
    assert view.failed
    assert view.error is not None
    assert view.error.shown == "no answer"
    assert view.turns[0].calls == ()
    assert view.images == ()


def test_a_malformed_call_cannot_be_run_again(store: ImageStore) -> None:
    record = ToolRecord("", {}, math.nan, error="not JSON", malformed=True)
    call = view_chain(line_of(trajectory(store, [[record]]))).calls[0]
    assert not call.can_rerun
    assert call.seconds is None
    assert call.arguments == ()


def test_a_task_of_several_images_with_target_and_mask(store: ImageStore) -> None:
    one, two, target, mask = (store.put(picture(colour)) for colour in ("red", "blue", None, "white"))
    task = TaskFacts("t", "Put both together.", "compose", (one, two), target, mask, {"checks": [1]})
    view = view_chain(line_of(trajectory(store), task=task))
    assert [shot.handle for shot in view.images] == [one, two]
    assert view.target == Shot(target, "img_2")
    assert view.mask == Shot(mask)
    assert view.metadata is not None
    assert "checks" in view.metadata.shown
    assert set(view.handles) >= {one, two, target, mask}


@pytest.mark.parametrize(
    ("reward", "parts", "words"),
    [
        (0.75, {"edit": 0.8, "format": -0.05}, "The sum of its parts; from -0.2 to 1"),
        (-0.2, {"edit": 0.0, "format": -0.2, "failed": -0.1}, "The sum of its parts (-0.3), cut at the end of its"),
        (3.0, {"mine": 1.0, "yours": 2.0}, "The sum of its parts"),
        (1.0, {"mine": 1.0, "yours": 2.0}, ""),
        (0.5, {"edit": float("nan")}, ""),
        (None, {"edit": 0.5}, ""),
        (0.5, 7, ""),
    ],
)
def test_a_reward_says_how_its_parts_make_it(reward: float | None, parts: object, words: str) -> None:
    found = reward_of(reward, parts)
    assert found.words.startswith(words)
    assert bool(found.words) == bool(words)
    # The range is that of our own reward alone.
    assert ("from -0.2 to 1" in found.words) == (bool(words) and found.parts[0].name == "edit")
    assert {part.about for part in found.parts if part.name == "edit"} <= {"the score, divided by 100"}
    assert {part.about for part in found.parts if part.name == "mine"} <= {""}


def test_scores_of_evaluators_come_with_feedback_cost_and_reasons(store: ImageStore) -> None:
    scores = {"judge": Score(60.0, "The edge is rough.", {"edit": math.nan}), "other": NotScored("no target")}
    judges = {"judge": JudgeUsage(requests=2, prompt_tokens=10, completion_tokens=5)}
    judge, other = view_chain(line_of(trajectory(store), scores=scores, judges=judges)).scores
    assert judge.feedback is not None
    assert judge.feedback.shown == "The edge is rough."
    assert judge.aspects == (("edit", None),)
    assert judge.usage == "requests: 2, tokens: 15"
    assert other.missing is not None
    assert other.missing.shown == "no target"
    assert other.value is None


def test_without_evaluators_the_score_is_that_of_the_trajectory(store: ImageStore) -> None:
    (score,) = view_chain(line_of(trajectory(store))).scores
    assert (score.name, score.value, score.aspects) == ("", 80.0, (("inside", 0.9),))


def test_an_audit_stands_beside_the_score_and_credit_at_its_turn(store: ImageStore) -> None:
    chain = trajectory(store, [[replace(edit("a", "b"), cached=True)], []])
    view = view_chain(TrajectoryLine.of_chain(chain, step=1, credit=(0.75, -0.25), audit=50.0))
    assert [(score.name, score.value) for score in view.scores] == [("", 80.0)]
    assert view.audit is not None
    assert (view.audit.value, view.audit.difference) == (50.0, -30.0)
    assert [turn.credit for turn in view.turns] == [0.75, -0.25]
    assert view.calls[0].cached
    failed = view_chain(TrajectoryLine.of_chain(chain, step=1, credit=(0.5,), audit=math.nan))
    assert failed.audit is not None
    assert failed.audit.missing is not None
    assert [turn.credit for turn in failed.turns] == [None, None]  # not as many as turns


def test_a_line_of_version_0_1_is_shown(store: ImageStore) -> None:
    chain = json.loads(trajectory(store).to_json())
    line = TrajectoryLine.from_dict({"trajectory": chain, "scores": {"judge": {"value": 30.0, "feedback": "bad"}}})
    view = view_chain(line)
    assert view.scores[0].value == 30.0
    assert len(view.turns) == 2
    assert view.step is None


def test_long_texts_are_cut_and_kept_whole(store: ImageStore) -> None:
    source, result = store.put(picture()), store.put(picture(None))
    record = edit(source, result, arguments={"image_id": "img_1", "prompt": "A" * 1_000_000})
    view = view_chain(line_of(trajectory(store, [[record]])))
    cut = view.calls[0].arguments[1][1]
    assert len(cut.shown) == 600
    assert cut.rest == 999_400
    assert view.long[cut.key] == "A" * 1_000_000


def test_hostile_values_of_a_record_are_shown_as_words(store: ImageStore) -> None:
    record = ToolRecord(
        "<b>",
        {"image_id": ["img_1"], "mask_id": {"a": 1}, "x": None},
        math.inf,
        data={"source": ["no handle"], "mask": 3, "list": [1]},
        images=("../../etc/passwd",),
    )
    call = view_chain(line_of(trajectory(store, [[record]]))).calls[0]
    assert (call.before, call.mask) == (None, None)
    assert call.after == Shot("../../etc/passwd")
    assert [text.shown for _, text in call.arguments] == ['["img_1"]', '{"a": 1}', "null"]
    assert call.data is not None
    assert "no handle" in call.data.shown


def test_more_turns_than_messages_do_no_harm(store: ImageStore) -> None:
    chain = trajectory(store)
    chain.turns = [*chain.turns, Turn("one more", "stop", 0.0), Turn("", "length", 0.0)]
    assert [turn.number for turn in view_chain(line_of(chain)).turns] == [1, 2, 3, 4]


def test_words_make_controls_visible_and_keep_lines() -> None:
    assert visible("a\x00b\x1b\n\t\x7f") == "a␀b␛\n\t␡"
    assert pretty({"a": "b" * 100}).count("\n") == 2
    assert pretty([1, 2]) == "[1, 2]"
    assert pretty("x") == "x"
    cut = Cutter(10)
    assert cut("123456789012").rest == 0  # a little more is not cut
    assert (cut("1" * 20).shown, cut.whole) == ("1" * 10, ["1" * 20])
