"""One format for all writers of trajectories; what version 0.1 wrote is still read."""

from __future__ import annotations

import json
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from agentfly.agents import StopReason, ToolRecord, Trajectory, Turn
from agentfly.agents.tasks import TaskFacts
from agentfly.agents.trajectory_file import (
    AUDIT,
    FORMAT,
    TrajectoryLine,
    append_line,
    first_messages,
    image_folder,
    read_trajectories,
)
from agentfly.errors import ConfigError
from agentfly.evaluation.task_record import TaskRecord
from agentfly.evaluators import NotScored, Score
from agentfly.evaluators.judge.settings import JudgeUsage
from agentfly.messages import ImagePart, Message, TextPart, text_message

SOURCE, RESULT = "img_000000000001", "img_000000000002"


def trajectory(**more: Any) -> Trajectory:
    asked = Message("user", (TextPart("img_1: "), ImagePart(SOURCE), TextPart("\nMake it red.")))
    messages = [text_message("system", "Edit."), asked, text_message("assistant", "Done.")]
    turns = [Turn("Done.", "stop", 0.5, (ToolRecord("edit", {"seed": 1}, 0.1, images=(RESULT,)),))]
    names = {"img_1": SOURCE, "img_2": RESULT}
    made = Trajectory("a-0", "a", messages, turns, [SOURCE], names, stop_reason=StopReason.ANSWERED)
    made.metadata = {"id": "a", "task_type": "recolour"}
    for name, value in more.items():
        setattr(made, name, value)
    return made


TASK = TaskFacts("a", "Make it red.", "recolour", (SOURCE,), target=RESULT, metadata={"turn": 2})
SCORES: dict[str, Score | NotScored] = {"judge": Score(71.5, "näher", {"x": 0.5}), "other": NotScored("no key")}


def test_a_line_has_its_format_and_no_empty_keys() -> None:
    line = json.loads(TrajectoryLine(trajectory(), TaskFacts("a", "Make it red.", "recolour"), step=3).to_json())
    assert line.keys() == {"format", "step", "task", "trajectory"}
    assert (line["format"], line["step"]) == (FORMAT, 3)
    assert line["task"] == {"id": "a", "type": "recolour", "instruction": "Make it red."}


@pytest.mark.parametrize(
    "line",
    [
        TrajectoryLine(trajectory()),
        TrajectoryLine(trajectory(), fingerprint="0123"),
        TrajectoryLine(trajectory(), TASK, SCORES, {"judge": JudgeUsage(samples=1, cost=0.25)}),
        TrajectoryLine(trajectory(), TaskFacts("a", "Make it red."), step=0, validate=True),
    ],
    ids=["bare", "of a run", "of an evaluation", "of training"],
)
def test_a_line_reads_back_equal(line: TrajectoryLine, tmp_path: Path) -> None:
    append_line(tmp_path / "t.jsonl", line)
    assert list(read_trajectories(tmp_path / "t.jsonl")) == [(1, line)]


def test_looking_is_written_only_where_it_happened_and_older_lines_are_read() -> None:
    records = (ToolRecord("zoom", {}, 0.1, looks=True), ToolRecord("edit", {}, 0.1))
    line = trajectory(turns=[Turn("…", "stop", 0.1, records)]).to_json()
    assert [record.get("looks") for record in json.loads(line)["turns"][0]["tools"]] == [True, None]
    assert Trajectory.from_json(line).tool_records == list(records)


def test_use_of_the_cache_is_written_only_where_it_happened() -> None:
    records = (ToolRecord("edit", {}, 0.1, cached=True), ToolRecord("edit", {}, 0.1))
    line = trajectory(turns=[Turn("…", "stop", 0.1, records)]).to_json()
    assert [record.get("cached") for record in json.loads(line)["turns"][0]["tools"]] == [True, None]
    assert Trajectory.from_json(line).tool_records == list(records)


def test_an_audit_is_no_score_of_a_chain_of_a_training() -> None:
    line = TrajectoryLine.of_chain(trajectory(score=80.0), step=1, credit=(0.5,), audit=30.0)
    assert json.loads(line.to_json())["credit"] == [0.5]
    read = TrajectoryLine.from_dict(json.loads(line.to_json()))
    assert read == line
    assert read.scores == {AUDIT: Score(30.0)}
    assert TaskRecord.of(read).scores == {}
    failed = TrajectoryLine.of_chain(trajectory(), step=1, audit=float("nan"))
    assert json.loads(failed.to_json())["evaluations"][AUDIT].keys() == {"not_scored"}
    # In an evaluation it is a name like any other.
    assert TrajectoryLine(trajectory(), scores={AUDIT: Score(30.0)}).headlines == {AUDIT: Score(30.0)}


def old_evaluation() -> dict[str, Any]:
    task = {"id": "a", "instruction": "Make it red.", "task_type": "recolour", "images": [SOURCE], "target": RESULT}
    return {
        "task": {**task, "mask": None, "metadata": {"turn": 2}},
        "scores": {
            "judge": {"value": 71.5, "feedback": "näher", "aspects": {"x": 0.5}},
            "other": {"not_scored": "no key"},
        },
        "judges": {"judge": {"samples": 1, "cost": 0.25}},
        "trajectory": trajectory().to_dict(),
    }


@pytest.mark.parametrize(
    ("old", "line"),
    [
        (trajectory().to_dict(), TrajectoryLine(trajectory())),
        (
            {"fingerprint": "0123", "trajectory": trajectory().to_dict()},
            TrajectoryLine(trajectory(), fingerprint="0123"),
        ),
        (old_evaluation(), TrajectoryLine(trajectory(), TASK, SCORES, {"judge": JudgeUsage(samples=1, cost=0.25)})),
        (
            {"step": 2, "validate": True, "task_type": "recolour", "trajectory": trajectory().to_dict()},
            TrajectoryLine(trajectory(), step=2, validate=True),
        ),
    ],
    ids=["bare", "of a run", "of an evaluation", "of training"],
)
def test_lines_of_version_0_1_are_read(old: dict[str, Any], line: TrajectoryLine) -> None:
    read = TrajectoryLine.from_dict(json.loads(json.dumps(old)))
    assert read == line
    assert read.described_task().instruction == "Make it red."
    assert read.described_task().images == (SOURCE,)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"format": "agentfly.trajectory/2"}', "upgrade agentfly"),
        ('{"a": 1}', "line 1 is no trajectory"),
        ("[]", "line 1 is no trajectory"),
        ("{oops", "line 1 is damaged"),
    ],
)
def test_what_is_no_line_is_named(line: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(f"{line}\n")
    with pytest.raises(ConfigError, match=words):
        list(read_trajectories(tmp_path / "t.jsonl"))


def test_a_torn_last_line_is_passed_over_and_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    append_line(path, TrajectoryLine(trajectory()))
    path.write_text(path.read_text() + '{"format": "agentfly.traj')
    assert len(list(read_trajectories(path))) == 1
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read_trajectories(tmp_path / "none.jsonl"))


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    append_line(tmp_path / "t.jsonl", TrajectoryLine(trajectory(answer="a\ud83d")))
    ((_, line),) = read_trajectories(tmp_path / "t.jsonl")
    assert line.trajectory.answer == "a?"


def write_lines(path: Path, writer: int) -> None:
    for count in range(20):
        append_line(path, TrajectoryLine(trajectory(id=f"{writer}-{count}", answer="é" * 20_000)))


@pytest.mark.slow
def test_processes_do_not_mix_their_lines(tmp_path: Path) -> None:
    context = get_context("fork")
    writers = [context.Process(target=write_lines, args=(tmp_path / "t.jsonl", number)) for number in range(3)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(60)
    assert {line.trajectory.id for _, line in read_trajectories(tmp_path / "t.jsonl")} == {
        f"{writer}-{count}" for writer in range(3) for count in range(20)
    }


def test_the_prompt_may_hold_turns_of_an_earlier_conversation() -> None:
    made = trajectory()
    made.messages = [text_message("user", "Hi"), text_message("assistant", "Hello"), *made.messages]
    assert [message.role for message in first_messages(made)] == ["user", "assistant", "system", "user"]
    made.turns = []
    assert first_messages(made) == made.messages


def test_images_lie_beside_the_file(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    assert image_folder(file) is None
    (tmp_path / "pictures").mkdir()
    assert image_folder(file) == tmp_path / "pictures"
    (tmp_path / "images").mkdir()
    assert image_folder(file) == tmp_path / "images"
