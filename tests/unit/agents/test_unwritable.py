"""A chain that cannot be written fails alone: the run goes on, its file can be read, and the chain runs again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.agents import Agent, StopReason, Trajectory
from agentfly.agents.llm_backends import Generation, GenerationRequest, ScriptedBackend
from agentfly.agents.run import RunLog
from agentfly.agents.trajectory_file import FILE_NAME, TrajectoryLine, append_line, read_trajectories
from agentfly.evaluation.task_record import TaskRecord
from agentfly.evaluators import NotScored, Score
from agentfly.images import ImageView
from agentfly.messages import ToolCall, text_message
from agentfly.tools import ToolResult, Toolset, tool


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def circle() -> Any:
    value: dict[str, Any] = {}
    value["a"] = value["b"] = value
    return value


class Odd:
    def __repr__(self) -> str:
        raise ZeroDivisionError("no words for it")


BROKEN: dict[str, Callable[[], Any]] = {
    "deep": lambda: nested(600),
    "very deep": lambda: nested(50_000),
    "circle": circle,
    "tuple as a name": lambda: {(1, 2): 3},
    "object without words": Odd,
}


class Deep(Agent):
    def __init__(self, script: Callable[[GenerationRequest], str | Generation], value: Any = None) -> None:
        super().__init__("s", backend=ScriptedBackend(script))
        self.value = value

    def toolset(self, view: ImageView) -> Toolset:
        value = self.value

        @tool
        async def give() -> ToolResult:
            """Give."""
            return ToolResult("given", data={"value": value})

        @tool
        async def take(value: Any) -> str:
            """Take."""
            return "taken"

        @tool(final=True)
        async def end() -> ToolResult:
            """End."""
            return ToolResult("done")

        return Toolset([give, take, end])


def conversation(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "messages": [{"role": "user", "content": f"Task {name}."}], **more}


def call(name: str, **arguments: Any) -> str:
    return f'<tool_call>{{"name": "{name}", "arguments": {json.dumps(arguments)}}}</tool_call>'


END = call("end")


async def check(agent: Agent, folder: Path, *conversations: dict[str, Any]) -> Trajectory:
    """Run; the chain of the first conversation must fail alone. Return it."""
    result = await agent.run([*conversations, conversation("fine")], log_dir=folder)
    broken, fine = result[0], result[-1]
    assert (fine.stop_reason, broken.stop_reason) == (StopReason.ANSWERED, StopReason.ERROR)
    assert "the chain cannot be written" in str(broken.error)
    written = [line.trajectory for _, line in read_trajectories(folder / FILE_NAME)]
    assert {(one.id, one.stop_reason) for one in written} == {(one.id, one.stop_reason) for one in result}
    log = RunLog(folder)
    log.close()
    assert set(log.finished) == {fine.id}
    return broken


@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN)
async def test_a_chain_whose_tool_returned_what_cannot_be_written(tmp_path: Path, value: Callable[[], Any]) -> None:
    def script(request: GenerationRequest) -> str:
        return call("give") if "fine" not in request.session_id and request.request_id.endswith("-0") else END

    broken = await check(Deep(script, value()), tmp_path, conversation("broken"))
    assert broken.turns[0].text == call("give")


@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN)
async def test_a_chain_whose_conversation_came_with_what_cannot_be_written(
    tmp_path: Path, value: Callable[[], Any]
) -> None:
    broken = await check(Deep(lambda _: END), tmp_path, conversation("broken", note=value(), source="a"))
    assert broken.metadata == {"id": "broken", "source": "a"}


async def test_a_chain_whose_backend_gave_deep_arguments(tmp_path: Path) -> None:
    def script(request: GenerationRequest) -> str | Generation:
        if "fine" in request.session_id or not request.request_id.endswith("-0"):
            return END
        return Generation("", tool_calls=(ToolCall("a", "take", {"value": nested(300)}),))

    await check(Deep(script), tmp_path, conversation("broken"))


@pytest.mark.parametrize("value", [nested(300), nested(5000), circle()], ids=["deep", "very deep", "circle"])
async def test_a_chain_whose_first_messages_have_a_deep_call(tmp_path: Path, value: Any) -> None:
    given = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "take", "arguments": {"x": value}}}]}
    messages = [{"role": "user", "content": "a"}, given, {"role": "user", "content": "b"}]
    await check(Deep(lambda _: END), tmp_path, {"id": "broken", "messages": messages})


@pytest.mark.parametrize("depth", [51, 600, 100_000])
async def test_arguments_that_are_nested_too_deeply_are_told_to_the_model(tmp_path: Path, depth: int) -> None:
    text = '<tool_call>{"name": "take", "arguments": {"value": ' + "[" * depth + "]" * depth + "}}</tool_call>"
    agent = Deep(lambda request: text if request.request_id.endswith("-0") else END)
    (trajectory,) = await agent.run([conversation("deep")], log_dir=tmp_path)
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert trajectory.tool_records[0].malformed
    assert "nested too deeply" in str(trajectory.tool_records[0].error)


async def test_arguments_fifty_deep_are_passed_on(tmp_path: Path) -> None:
    text = call("take", value=nested(50))
    agent = Deep(lambda request: text if request.request_id.endswith("-0") else END)
    (trajectory,) = await agent.run([conversation("deep")], log_dir=tmp_path)
    assert trajectory.tool_records[0].arguments == {"value": nested(50)}
    assert trajectory.tool_records[0].error is None


@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN)
def test_a_record_of_an_evaluation_that_cannot_be_written_is_a_failed_one(value: Callable[[], Any]) -> None:
    from agentfly.agents.tasks import TaskFacts

    trajectory = Trajectory("a", "a", [text_message("user", "x")], stop_reason=StopReason.ANSWERED)
    record = TaskRecord(TaskFacts("a", "x", metadata={"note": value()}), trajectory, {"ref": Score(80.0)})
    again = TrajectoryLine.from_dict(json.loads(record.to_json()))
    assert record.failed
    assert record.value("ref") is None
    assert again.trajectory.stop_reason is StopReason.ERROR
    assert isinstance(again.scores["ref"], NotScored)
    assert again.task is not None
    assert again.task.instruction == "x"


def test_a_file_with_a_line_that_nests_too_deeply_is_a_clear_error(tmp_path: Path) -> None:
    from agentfly.errors import ConfigError

    (tmp_path / FILE_NAME).write_text("[" * 100_000 + "]" * 100_000 + "\n")
    with pytest.raises(ConfigError, match="line 1 is damaged"):
        list(read_trajectories(tmp_path / FILE_NAME))


def test_what_a_chain_that_can_be_written_looks_like_is_unchanged() -> None:
    image = Image.new("RGB", (4, 4))
    trajectory = Trajectory("a", "a", [text_message("user", "x")], metadata={"image": image, "deep": nested(150)})
    assert Trajectory.from_json(trajectory.to_json()).metadata["deep"] == nested(150)
    assert trajectory.error is None


def test_a_chain_of_training_that_cannot_be_written_has_a_line_that_says_so(tmp_path: Path) -> None:
    trajectory = Trajectory("a", "a", [text_message("user", "x")], metadata={"note": nested(600), "id": "t"})
    trajectory.stop_reason, trajectory.reward = StopReason.ANSWERED, 0.5
    append_line(tmp_path / FILE_NAME, TrajectoryLine.of_chain(trajectory, step=3, validate=False))
    ((_, line),) = read_trajectories(tmp_path / FILE_NAME)
    assert (line.step, line.task and line.task.id) == (3, "t")
    assert (line.trajectory.stop_reason, line.trajectory.reward) == (StopReason.ERROR, None)
