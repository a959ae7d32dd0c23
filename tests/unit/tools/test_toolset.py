"""The toolset finds, checks, bounds and carries out calls; what fails reaches the model, what is broken does not."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from agentfly.errors import ConfigError, ImageError, ToolError
from agentfly.messages import ToolCall
from agentfly.tools import Toolset, tool


class Base:
    def __init__(self, name: str) -> None:
        self.name = name
        self.cancelled = False

    @tool
    def zebra(self, n: int = 1) -> str:
        """First."""
        return f"{self.name}{n}"

    @tool
    async def ant(self) -> str:
        """Second."""
        return self.name

    def helper(self) -> None: ...


class Child(Base):
    @tool
    async def bee(self, seconds: float) -> str:
        """Third."""
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return "woke"

    @tool
    async def ant(self) -> str:
        """Replaced."""
        return "child"

    @tool
    async def fail(self, how: str) -> str:
        raise {"tool": ToolError, "image": ImageError, "bug": KeyError, "own": TimeoutError}[how]("why")

    @staticmethod
    @tool
    def still() -> str:
        return "static"


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall("call_0", name, arguments)


def test_methods_come_in_definition_order_and_bound_to_their_object() -> None:
    assert [t.name for t in Toolset.of(Child("x"))] == ["zebra", "ant", "bee", "fail", "still"]
    assert [s["function"]["description"] for s in Toolset.of(Child("x")).schemas()][:2] == ["First.", "Replaced."]


async def test_two_objects_keep_their_tools_apart() -> None:
    first, second = Toolset.of(Base("a")), Toolset.of(Base("b"))
    assert (await first.execute(call("zebra", n="2"))).text == "a2"
    assert (await second.execute(call("zebra"))).text == "b1"


async def test_an_overriding_method_and_a_static_one_are_called() -> None:
    tools = Toolset.of(Child("x"))
    assert (await tools.execute(call("ant"))).text == "child"
    assert (await tools.execute(call("still"))).text == "static"


def test_a_subclass_can_take_a_tool_away() -> None:
    class Less(Base):
        async def ant(self) -> str:  # not marked
            return ""

    assert [t.name for t in Toolset.of(Less("x"))] == ["zebra"]


def test_names_are_unique_and_members_are_marked() -> None:
    with pytest.raises(ConfigError, match="two tools are named 'zebra'"):
        Toolset([Base("a").zebra, Base("b").zebra])
    with pytest.raises(ConfigError, match="mark it with @tool"):
        Toolset([Base("a").helper])


async def test_bound_methods_can_be_picked_one_by_one() -> None:
    tools = Toolset([Base("a").zebra])
    assert "zebra" in tools
    assert len(tools) == 1
    assert (await tools.execute(call("zebra"))).text == "a1"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (ToolCall("c", "zebra", {}, "unreadable"), "^unreadable$"),
        (call("zebr"), "unknown tool 'zebr'. Did you mean 'zebra'"),
        (call("zebra", m=1), "unknown m. Arguments: n"),
        (call("fail", how="tool"), "^why$"),
    ],
)
async def test_what_the_model_can_mend_is_a_tool_error(given: ToolCall, words: str) -> None:
    with pytest.raises(ToolError, match=words):
        await Toolset.of(Child("x")).execute(given, timeout=5)


@pytest.mark.parametrize(("how", "kind"), [("image", ImageError), ("bug", KeyError), ("own", TimeoutError)])
async def test_everything_else_passes_through_as_it_is(how: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="why"):
        await Toolset.of(Child("x")).execute(call("fail", how=how), timeout=5)


async def test_a_slow_tool_is_cancelled_at_its_limit() -> None:
    owner = Child("x")
    with pytest.raises(ToolError, match=r"bee timed out after 0\.02 s; try"):
        await Toolset.of(owner).execute(call("bee", seconds=30), timeout=0.02)
    await asyncio.sleep(0)
    assert owner.cancelled


async def test_a_blocking_tool_does_not_hold_the_chain_past_its_limit() -> None:
    release = threading.Event()

    @tool
    def block() -> None:
        release.wait(10)

    begun = time.monotonic()
    with pytest.raises(ToolError, match="timed out"):
        await Toolset([block]).execute(call("block"), timeout=0.02)
    release.set()
    assert time.monotonic() - begun < 2


async def test_cancelling_the_chain_cancels_its_tool() -> None:
    owner = Child("x")
    running = asyncio.create_task(Toolset.of(owner).execute(call("bee", seconds=30)))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert owner.cancelled


def test_a_toolset_for_each_chain_is_cheap() -> None:
    owner = Child("x")
    Toolset.of(owner)
    begun = time.perf_counter()
    for _ in range(200):
        Toolset.of(owner)
    # Some 7 microseconds where nothing else runs; working out five schemas again would take milliseconds.
    assert (time.perf_counter() - begun) / 200 < 500e-6
