"""Each tool of a person's own is called once before a run, and its faults are told with their line."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import pytest
from PIL import Image
from pydantic import Field

from agentfly.agents import Agent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.tool_trial import ToolTrial, is_own, sample_arguments, try_tools
from agentfly.errors import ToolError
from agentfly.images import ImageStore, ImageView
from agentfly.tools import ToolResult, tool
from agentfly.tools.decorator import tool_of


@tool
def brighten(image: Image.Image, factor: Annotated[float, Field(ge=0, le=4)], mode: Literal["fast", "slow"]) -> Any:
    """Brighten."""
    assert (factor, mode) == (2.0, "fast")
    return image.point(lambda value: min(255, int(value * factor)))


@tool
def picky(image_id: str, mask_id: str, words: Annotated[str, Field(min_length=3)], boxes: list[int], deep: bool) -> str:
    """Refuse."""
    assert (image_id, mask_id, words, boxes, deep) == ("img_1", "mask_1", "xxx", [1], False)
    raise ToolError("not today")


@tool
def broken(number: int) -> str:
    """Fail."""
    return str(1 // (number - 1))


@tool
async def blocking() -> str:
    """Block."""
    time.sleep(0.01)
    return "done"


@tool
def unwritable() -> ToolResult:
    """Return what is not JSON."""
    return ToolResult("here", data={"image": Image.new("L", (1, 1))})


@tool
def inventing() -> ToolResult:
    """Return an image that nobody has."""
    return ToolResult("img_7", ("img_0123456789ab",))


async def trials(*tools: Any, timeout: float = 60.0) -> list[ToolTrial]:
    agent = Agent("s", backend=ScriptedBackend([]), tools=["look", *tools])
    return await try_tools(agent, timeout)


async def test_tools_of_the_package_are_not_tried_and_others_once() -> None:
    (trial,) = await trials(brighten)
    assert (trial.tool, trial.outcome, trial.fault) == ("brighten", "img_2", None)


async def test_a_refusal_is_no_fault() -> None:
    (trial,) = await trials(picky)
    assert (trial.outcome, trial.fault) == ("refused: not today", None)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (broken, rf'tool \'broken\' failed on {{"number": 1}}: ZeroDivisionError: .*{__file__}:'),
        (unwritable, "ToolResult.data is written as JSON, and cannot be"),
        (inventing, "returns 'img_0123456789ab', which is no image of the chain"),
    ],
)
async def test_faults_are_told(given: Any, fault: str) -> None:
    import re

    (trial,) = await trials(given)
    assert trial.fault is not None
    assert re.search(fault, trial.fault)


async def test_a_tool_that_holds_the_event_loop_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentfly.agents.tool_trial.HELD_SECONDS", 0.005)
    (trial,) = await trials(blocking)
    assert trial.fault is not None
    assert f"tool 'blocking' ({__file__}:" in trial.fault
    assert "held the event loop" in trial.fault


async def test_a_tool_that_hangs_is_a_refusal_within_the_limit() -> None:
    import asyncio

    @tool
    async def hanging() -> str:
        """Hang."""
        await asyncio.Event().wait()
        return "never"

    (trial,) = await trials(hanging, timeout=0.05)
    assert "timed out after 0.05 s" in trial.outcome


def test_arguments_suit_the_schema() -> None:
    view = ImageView(ImageStore())
    view.add(Image.new("RGB", (4, 4)))

    @tool
    def many(
        image: Image.Image,
        size: Annotated[int, Field(gt=10)],
        below: Annotated[float, Field(lt=1)],
        either: int | str,
        listed: Annotated[list[str], Field(min_length=2)],
        example: Annotated[str, Field(examples=["a cat"])],
        left_out: int = 3,
    ) -> str:
        """Take many."""
        return ""

    found = tool_of(many)
    assert found is not None
    assert sample_arguments(found, view) == {
        "image": "img_1",
        "size": 11,
        "below": 0.0,
        "either": 1,
        "listed": ["x", "x"],
        "example": "a cat",
    }
    assert is_own(found)
