"""Agents of one's own: tools from functions, methods and classes, checked and coerced, one set for each chain."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from PIL import Image
from pydantic import BaseModel, Field

from agentfly.agents import Agent, ImageEditingAgent, StopReason, Trajectory
from agentfly.agents.llm_backends import GenerationRequest, ScriptedBackend
from agentfly.errors import ConfigError
from agentfly.images import ImageView
from agentfly.tools import ToolResult, tool


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Box(BaseModel):
    left: int
    top: int = 0


class Shape(BaseModel):
    kind: Literal["circle", "square"]
    boxes: list[Box] = []


@tool
async def draw(
    shape: Shape,
    colour: Colour = Colour.RED,
    size: int | Literal["auto"] = "auto",
    tags: list[str] | None = None,
    width: Annotated[float, Field(gt=0)] = 1.0,
) -> dict[str, Any]:
    """Draw a shape.

    Args:
        shape: what to draw.
        colour: its colour.
    """
    kinds = [type(value).__name__ for value in (shape, colour, size, tags, width)]
    return {"kinds": kinds, "left": shape.boxes[0].left if shape.boxes else None}


class Counter(Agent):
    """Keeps a count in each chain."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__("s", **arguments)
        self.count = 0

    @tool
    def add(self, number: int = 1) -> str:
        """Add to the count."""
        self.count += number
        return f"the count is {self.count}"

    @tool
    def mirror(self, image_id: str) -> ToolResult:
        """Mirror an image."""
        name = self.images.add(self.images.get(image_id).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        return ToolResult(f"{name}: mirrored", (self.images.handle(name),))


@tool
class StampTool:
    """Stamp an image."""

    def __init__(self, images: ImageView) -> None:
        self._images = images
        self._stamped = 0

    def __call__(self, image_id: str) -> str:
        self._images.get(image_id)
        self._stamped += 1
        return f"{image_id} has stamp {self._stamped}"


class Diary:
    """An object with tools, shared by all chains."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    @tool(name="write", description="Write into the diary.")
    def note(self, entry: str) -> None:
        self.entries.append(entry)


@tool(final=True)
def finish(words: str) -> str:
    """End the conversation."""
    return words


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


async def run(agent: Agent, chains: int = 1) -> list[Trajectory]:
    content = [{"type": "image", "image": Image.new("RGB", (8, 8))}, {"type": "text", "text": "go"}]
    return list(await agent.run([{"role": "user", "content": content}], num_chains=chains))


def observations(trajectory: Trajectory) -> list[str]:
    return [message.text for message in trajectory.messages if message.role == "tool"]


async def test_arguments_are_coerced_to_what_the_hints_say() -> None:
    given = {"shape": {"kind": "circle", "boxes": [{"left": "3"}]}, "colour": "blue", "size": "7", "tags": [1, "b"]}
    agent = Agent("s", backend=ScriptedBackend([call("draw", **given), "done"]), tools=[draw])
    (trajectory,) = await run(agent)
    assert trajectory.tool_records[0].data == {"kinds": ["Shape", "Colour", "int", "list", "float"], "left": 3}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "missing shape"),
        ({"shape": {"kind": "star"}}, "shape.kind"),
        ({"shape": {"kind": "circle"}, "colour": "green"}, "colour"),
        ({"shape": {"kind": "circle", "boxes": [{"top": 1}]}}, "boxes.0.left"),
        ({"shape": {"kind": "circle"}, "width": 0}, "width must be > 0"),
        ({"shape": {"kind": "circle"}, "color": "red"}, "unknown color"),
        ({"shape": "circle"}, "shape"),
    ],
)
async def test_wrong_arguments_are_observations(arguments: dict[str, Any], words: str) -> None:
    agent = Agent("s", backend=ScriptedBackend([call("draw", **arguments), "done"]), tools=[draw])
    (trajectory,) = await run(agent)
    assert trajectory.stop_reason is StopReason.NO_TOOL_CALL
    assert observations(trajectory)[0].startswith("Error: draw: ")
    assert words in observations(trajectory)[0]


async def test_the_policy_is_told_of_all_tools() -> None:
    agent = Counter(backend=ScriptedBackend(["done"]), tools=[draw, StampTool, Diary(), finish])
    (trajectory,) = await run(agent)
    assert [tool["function"]["name"] for tool in trajectory.tools] == [
        "add",
        "mirror",
        "draw",
        "stamp_tool",
        "write",
        "finish",
    ]
    schema = trajectory.tools[2]["function"]["parameters"]["properties"]
    assert schema["shape"]["properties"]["boxes"]["items"]["required"] == ["left"]
    assert schema["colour"] == {
        "type": "string",
        "enum": ["red", "blue"],
        "default": "red",
        "description": "its colour.",
    }
    assert schema["size"]["anyOf"][0] == {"type": "integer"}
    assert schema["tags"] == {"type": "array", "items": {"type": "string"}}
    assert trajectory.tools[3]["function"]["description"] == "Stamp an image."


async def test_methods_work_on_the_images_and_the_state_of_their_chain() -> None:
    def script(request: GenerationRequest) -> str:
        turn = int(request.request_id.rpartition("-")[2])
        return ["" + call("add", number=2) + call("mirror", image_id="img_1"), call("add"), "done"][turn]

    agent = Counter(backend=ScriptedBackend(script))
    chains = await run(agent, chains=2)
    for trajectory in chains:
        assert observations(trajectory)[0] == "the count is 2"
        assert observations(trajectory)[-1] == "the count is 3"
    assert agent.count == 0
    assert len(agent.images) == 0


async def test_each_chain_has_its_own_object_of_a_class_and_shares_objects() -> None:
    diary = Diary()
    turn = call("stamp_tool", image_id="img_1") + call("write", entry="x")
    agent = Agent("s", backend=ScriptedBackend([turn, turn, "done"]), tools=[StampTool, diary])
    for trajectory in await run(agent, chains=2):
        assert observations(trajectory) == ["img_1 has stamp 1", "done", "img_1 has stamp 2", "done"]
    assert diary.entries == ["x"] * 4


async def test_a_final_tool_ends_the_chain() -> None:
    agent = Agent("s", backend=ScriptedBackend([call("finish", words="that is all")]), tools=[finish])
    (trajectory,) = await run(agent)
    assert trajectory.answered
    assert trajectory.answer == "that is all"


async def test_an_image_editing_agent_takes_more_tools() -> None:
    class Stamper(ImageEditingAgent):
        @tool
        def stamp(self, image_id: str) -> str:
            """Stamp."""
            return f"stamped {self.images.handle(image_id)}"

    agent = Stamper("s", backend=ScriptedBackend([call("stamp", image_id="img_1"), "done"]), tools=[finish])
    (trajectory,) = await run(agent)
    names = [tool["function"]["name"] for tool in trajectory.tools]
    assert names[-2:] == ["stamp", "finish"]
    assert "detect_objects" in names
    assert observations(trajectory)[0] == f"stamped {trajectory.images[0]}"


async def test_a_bug_in_a_tool_ends_its_chain_only() -> None:
    @tool
    def odd(number: int) -> str:
        """Fail."""
        return str(1 // (number - 1))

    def script(request: GenerationRequest) -> str:
        number = 1 if request.session_id.endswith("-0") else 3
        return call("odd", number=number) if request.request_id.endswith("-0") else "done"

    agent = Agent("s", backend=ScriptedBackend(script), tools=[odd])
    first, second = await run(agent, chains=2)
    assert first.stop_reason is StopReason.ERROR
    assert "ZeroDivisionError" in (first.error or "")
    assert second.stop_reason is StopReason.NO_TOOL_CALL


def test_what_cannot_be_a_tool_is_refused() -> None:
    with pytest.raises(ConfigError, match="no __call__"):

        @tool
        class Empty:
            pass

    for given in ([object()], [print], [dict]):
        with pytest.raises(ConfigError, match="mark"):
            Agent("s", backend=ScriptedBackend([]), tools=given)
    with pytest.raises(ConfigError, match="two tools are named 'finish'"):
        Agent("s", backend=ScriptedBackend([]), tools=[finish, finish])
