"""Several calls in one turn: side by side, and told as if they had come one after the other."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from PIL import Image

from agentfly.agents import Agent, AgentSettings, RolloutLimits, StopReason, Trajectory
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.errors import ImageError, ToolError
from agentfly.images import ImageView
from agentfly.tools import ToolResult, Toolset, tool


class Desk:
    """Tools whose order of ending the test decides."""

    def __init__(self, images: ImageView, gates: dict[str, asyncio.Event], log: list[str]) -> None:
        self._images, self._gates, self._log = images, gates, log

    @tool
    async def paint(self, image_id: str, grey: int, after: str = "", kind: str = "img") -> ToolResult:
        """Paint, once `after` is painted."""
        self._log.append(f"start {grey}")
        if after:
            await self._gates[after].wait()
        size = self._images.get(image_id).size
        name = self._images.add(Image.new("RGB", size, (grey,) * 3), kind)
        self._gates.setdefault(str(grey), asyncio.Event()).set()
        self._log.append(f"end {grey}")
        return ToolResult(f"{name}: grey {grey}", (self._images.handle(name),), data={"made": [name]})

    @tool(looks=True)
    async def look(self, image_id: str, grey: int = 0, after: str = "", named: bool = False) -> ToolResult:
        """Show an image in one grey, or as it is; named by the tool or by the rollout."""
        if after:
            await self._gates[after].wait()
        image = Image.new("RGB", (8, 8), (grey,) * 3) if grey else self._images.get(image_id)
        name = self._images.add(image, "view") if named else "seen"
        return ToolResult(name, (self._images.store.put(image),))

    @tool
    async def refuse(self, after: str = "") -> ToolResult:
        """Always refuse."""
        if after:
            await self._gates[after].wait()
        raise ToolError(f"there are {', '.join(self._images)}")

    @tool
    async def crash(self) -> ToolResult:
        """A bug."""
        raise ZeroDivisionError

    @tool(final=True)
    async def give_answer(self, final_image_id: str) -> ToolResult:
        """Finish."""
        if final_image_id not in self._images:
            raise ToolError(f"no {final_image_id}")
        return ToolResult("done", (self._images.handle(final_image_id),))


class DeskAgent(Agent):
    def __init__(self, script: list[str], **limits: Any) -> None:
        super().__init__("s", backend=ScriptedBackend(script), settings=AgentSettings(limits=RolloutLimits(**limits)))
        self.gates: dict[str, asyncio.Event] = {str(grey): asyncio.Event() for grey in (10, 20, 30)}
        self.log: list[str] = []

    def toolset(self, view: ImageView) -> Toolset:
        return Toolset.of(Desk(view, self.gates, self.log))


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


async def run(*turns: str, **limits: Any) -> tuple[DeskAgent, Trajectory]:
    agent = DeskAgent([*turns, "end"], **limits)
    content = [{"type": "image", "image": Image.new("RGB", (8, 8))}]
    result = await asyncio.wait_for(agent.run([{"role": "user", "content": content}]), 20)
    return agent, result[0]


def observations(trajectory: Trajectory) -> list[str]:
    return [message.text for message in trajectory.messages if message.role == "tool"]


def pixel(agent: DeskAgent, trajectory: Trajectory, name: str) -> Any:
    return agent.store.get(trajectory.names[name]).getpixel((0, 0))


async def test_calls_run_side_by_side_and_names_follow_the_calls() -> None:
    """The first call ends last; a rollout that ran them one by one would wait for ever."""
    agent, trajectory = await run(
        call("paint", image_id="img_1", grey=10, after="20")
        + call("paint", image_id="img_1", grey=20, after="30")
        + call("paint", image_id="img_1", grey=30)
    )
    assert agent.log == ["start 10", "start 20", "start 30", "end 30", "end 20", "end 10"]
    assert observations(trajectory) == ["img_2: grey 10", "img_3: grey 20", "img_4: grey 30"]
    assert [pixel(agent, trajectory, f"img_{n}")[0] for n in (2, 3, 4)] == [10, 20, 30]
    assert [record.data["made"] for record in trajectory.tool_records] == [["img_2"], ["img_3"], ["img_4"]]
    assert trajectory.images[1:] == [trajectory.names[f"img_{n}"] for n in (2, 3, 4)]
    assert trajectory.final_image == trajectory.names["img_4"]


async def test_the_order_of_the_ends_changes_nothing_that_is_kept() -> None:
    def turn(**after: str) -> str:
        painted = [call("paint", image_id="img_1", grey=g, after=after.get(f"g{g}", "")) for g in (10, 20)]
        return painted[0] + call("refuse", after=after.get("no", "")) + painted[1]

    kept = []
    for after in ({"g10": "20", "no": "20"}, {"g20": "10", "no": "10"}, {"g10": "20", "no": "10"}):
        _, trajectory = await run(turn(**after))
        kept.append((observations(trajectory), trajectory.names, [record.error for record in trajectory.tool_records]))
    assert kept[0] == kept[1] == kept[2]
    assert kept[0][0] == ["img_2: grey 10", "Error: there are img_1", "img_3: grey 20"]


async def test_a_call_that_names_a_new_image_waits_for_the_calls_before_it() -> None:
    agent, trajectory = await run(
        call("paint", image_id="img_1", grey=10, after="30")
        + call("paint", image_id="img_2", grey=20)
        + call("paint", image_id="img_1", grey=30)
    )
    assert agent.log == ["start 10", "start 30", "end 30", "end 10", "start 20", "end 20"]
    assert observations(trajectory) == ["img_2: grey 10", "img_3: grey 20", "img_4: grey 30"]


async def test_equal_images_of_two_calls_are_one_image_with_one_name() -> None:
    _, trajectory = await run(call("paint", image_id="img_1", grey=10) * 2)
    assert observations(trajectory) == ["img_2: grey 10"] * 2
    assert set(trajectory.names) == {"img_1", "img_2"}


async def test_masks_are_numbered_apart() -> None:
    _, trajectory = await run(
        call("paint", image_id="img_1", grey=10, kind="mask", after="20") + call("paint", image_id="img_1", grey=20)
    )
    assert observations(trajectory) == ["mask_1: grey 10", "img_2: grey 20"]


@pytest.mark.parametrize("named", [False, True])
async def test_what_a_tool_shows_is_a_view_and_never_the_result(named: bool) -> None:
    agent, trajectory = await run(
        call("paint", image_id="img_1", grey=10),
        call("look", image_id="img_1", grey=20, named=named) + call("look", image_id="img_1", named=named),
    )
    assert list(trajectory.names) == ["img_1", "img_2", "view_1"]
    assert trajectory.final_image == trajectory.names["img_2"]
    assert [record.looks for record in trajectory.tool_records] == [False, True, True]
    assert pixel(agent, trajectory, "view_1") == (20, 20, 20)


async def test_a_call_on_a_view_to_come_waits_for_it() -> None:
    _, trajectory = await run(
        call("look", image_id="img_1", grey=20, named=True, after="10")
        + call("paint", image_id="view_1", grey=30)
        + call("paint", image_id="img_1", grey=10)
    )
    assert observations(trajectory) == ["view_1", "img_2: grey 30", "img_3: grey 10"]


@pytest.mark.parametrize("beside", [False, True])
async def test_an_edit_that_equals_a_view_is_a_result(beside: bool) -> None:
    look, paint = call("look", image_id="img_1", grey=20, named=True), call("paint", image_id="img_1", grey=20)
    _, trajectory = await run(*([look + paint] if beside else [look, paint]))
    assert list(trajectory.names) == ["img_1", "view_1", "img_2"]
    assert observations(trajectory) == ["view_1", "img_2: grey 20"]
    assert trajectory.final_image == trajectory.names["img_2"] == trajectory.names["view_1"]


async def test_a_tool_that_does_not_say_that_it_looks_may_still_name_a_view() -> None:
    _, trajectory = await run(call("paint", image_id="img_1", grey=10, kind="view"))
    assert list(trajectory.names) == ["img_1", "view_1"]
    assert trajectory.final_image is None


async def test_the_answer_comes_last_and_ends_the_turn() -> None:
    agent, trajectory = await run(
        call("paint", image_id="img_1", grey=10)
        + call("give_answer", final_image_id="img_1")
        + call("paint", image_id="img_1", grey=20)
    )
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert agent.log == ["start 10", "end 10"]
    assert trajectory.final_image == trajectory.names["img_1"]
    assert [record.name for record in trajectory.tool_records] == ["paint", "give_answer"]


async def test_an_answer_that_is_refused_does_not_end_the_turn() -> None:
    _, trajectory = await run(
        call("give_answer", final_image_id="img_7") + call("paint", image_id="img_1", grey=10),
        call("give_answer", final_image_id="img_2"),
    )
    assert observations(trajectory) == ["Error: no img_7", "img_2: grey 10"]
    assert trajectory.stop_reason is StopReason.ANSWERED


async def test_a_bug_beside_a_tool_that_waits_ends_the_chain() -> None:
    agent, trajectory = await run(call("paint", image_id="img_1", grey=10, after="20") + call("crash"))
    assert trajectory.stop_reason is StopReason.ERROR
    assert "ZeroDivisionError" in (trajectory.error or "")
    assert agent.log == ["start 10"]


async def test_calls_side_by_side_share_the_time_that_is_left() -> None:
    turn = call("paint", image_id="img_1", grey=10, after="20") + call("paint", image_id="img_1", grey=30)
    _, trajectory = await run(turn, wall_clock=0.3)
    assert trajectory.stop_reason is StopReason.WALL_CLOCK
    first, second = observations(trajectory)
    assert "timed out" in first
    assert second == "img_2: grey 30"


async def test_a_thread_that_was_given_up_names_no_image_of_a_later_turn() -> None:
    given_up, added = threading.Event(), threading.Event()
    refused: list[str] = []

    class Late(Agent):
        @tool
        def slow(self) -> str:
            """Add an image too late."""
            given_up.wait(20.0)
            try:
                return self.images.add(Image.new("RGB", (8, 8), (1, 2, 3)))
            except ImageError as fault:
                refused.append(str(fault))
                raise
            finally:
                added.set()

        @tool
        def quick(self) -> Image.Image:
            """Make an image."""
            given_up.set()
            added.wait(20.0)
            return Image.new("RGB", (8, 8), (9, 9, 9))

    backend = ScriptedBackend([call("slow"), call("quick"), "Done."])
    settings = AgentSettings(limits=RolloutLimits(tool_timeout=1.0))
    [trajectory] = await Late("s", backend=backend, settings=settings).run([{"role": "user", "content": "Go."}])
    assert observations(trajectory)[1] == "img_1"
    assert list(trajectory.names) == ["img_1"]
    assert "has ended" in refused[0]


@pytest.mark.parametrize("limit", [1, 2])
async def test_calls_beyond_the_limit_are_not_carried_out(limit: int) -> None:
    turn = "".join(call("paint", image_id="img_1", grey=grey) for grey in (10, 20, 30))
    agent, trajectory = await run(turn, max_tool_calls=limit)
    assert trajectory.stop_reason is StopReason.MAX_TOOL_CALLS
    assert len(trajectory.tool_records) == limit
    assert len(agent.log) == 2 * limit
