"""Deterministic tools of a person's own behind the tool cache of the engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps
from pydantic import BaseModel

from agentfly.agents import Agent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.tool_trial import try_tools
from agentfly.errors import ConfigError
from agentfly.images import ImageStore, ImageView
from agentfly.messages import ToolCall
from agentfly.tools import Tool, ToolResult, tool
from agentfly.tools.cached_tool import version_of
from agentfly.tools.decorator import held_words
from agentfly.vision.cached_engines import cache_stats
from agentfly.vision.factory import make_engines

CALLS: list[str] = []


class Way(BaseModel):
    turn: bool = True


@tool(deterministic=True)
def mirror(image: Image.Image, way: Way = Way()) -> tuple[str, Image.Image]:  # noqa: B008 (a tool's default)
    """Mirror."""
    CALLS.append("mirror")
    return "mirrored:", ImageOps.mirror(image)


@tool(deterministic=True, looks=True)
async def measure(image: Image.Image, unit: str = "px") -> dict[str, Any]:
    """Measure."""
    CALLS.append("measure")
    return {"width": image.width, "unit": unit}


@tool(deterministic=True)
def told() -> ToolResult:
    """Tell."""
    CALLS.append("told")
    return ToolResult("told", data={"times": 1})


@tool
def plain(image: Image.Image) -> Image.Image:
    """Copy upside down."""
    CALLS.append("plain")
    return ImageOps.flip(image)


def gradient(side: int = 8) -> Image.Image:
    return Image.linear_gradient("L").rotate(90).resize((side, side)).convert("RGB")


class Chains:
    """Chains of one agent, each with a store of its own."""

    def __init__(self, folder: Path) -> None:
        CALLS.clear()
        engines = make_engines({"cache": {"root": str(folder)}})
        tools = [mirror, measure, told, plain]
        self.agent = Agent("s", backend=ScriptedBackend([]), tools=tools)
        self.agent.engines = engines
        self.engines = engines

    async def call(self, name: str, side: int = 8, **arguments: object) -> tuple[ToolResult, ImageView]:
        view = ImageView(ImageStore())
        view.add(gradient(side))
        return await self.agent.tools_for(view).execute(ToolCall("c", name, arguments)), view


async def test_a_second_chain_gets_the_result_of_the_first(tmp_path: Path) -> None:
    chains = Chains(tmp_path)
    (first, one), (second, other) = [await chains.call("mirror", image="img_1") for _ in range(2)]
    assert CALLS == ["mirror"]
    assert first == second
    assert second.text == "mirrored: img_2"
    assert other.get("img_2").tobytes() == one.get("img_2").tobytes() == ImageOps.mirror(gradient()).tobytes()
    stats = cache_stats(chains.engines)
    assert stats is not None
    assert (stats.hits, stats.misses) == (1, 1)
    # Another process, or a later run, finds it on the disk.
    assert (await Chains(tmp_path).call("mirror", image="img_1"))[0] == first
    assert CALLS == []


async def test_other_pixels_and_other_arguments_are_other_calls(tmp_path: Path) -> None:
    chains = Chains(tmp_path)
    await chains.call("mirror", image="img_1")
    await chains.call("mirror", side=4, image="img_1")
    await chains.call("mirror", image="img_1", way={"turn": False})
    assert CALLS == ["mirror"] * 3
    words = [(await chains.call("measure", image="img_1", unit=unit))[0].text for unit in ("px", "cm", "px")]
    assert words == ['{"width": 8, "unit": "px"}', '{"width": 8, "unit": "cm"}', '{"width": 8, "unit": "px"}']
    assert CALLS[3:] == ["measure"] * 2


async def test_results_without_images_and_tools_without_the_mark(tmp_path: Path) -> None:
    chains = Chains(tmp_path)
    results = [(await chains.call("told"))[0] for _ in range(2)]
    assert results[0] == results[1]
    assert results[1].data == {"times": 1}
    for _ in range(2):
        await chains.call("plain", image="img_1")
    assert CALLS == ["told", "plain", "plain"]


async def test_without_a_cache_every_call_is_made() -> None:
    CALLS.clear()
    agent = Agent("s", backend=ScriptedBackend([]), tools=[told])
    for _ in range(2):
        await agent.tools_for(ImageView(ImageStore())).execute(ToolCall("c", "told", {}))
    assert CALLS == ["told", "told"]


async def test_a_fault_behind_the_cache_has_the_persons_line(tmp_path: Path) -> None:
    [_, slow, *_] = Chains(tmp_path).agent.tools_for(ImageView(ImageStore()))
    assert f"tool 'measure' ({__file__}:" in held_words(slow, 2.0)


async def test_handles_of_one_chain_are_not_kept_for_others(tmp_path: Path) -> None:
    @tool(deterministic=True)
    def handing() -> ToolResult:
        """Hand out a handle."""
        return ToolResult("img_1", ("img_0123456789ab",))

    agent = Agent("s", backend=ScriptedBackend([]), tools=[handing])
    agent.engines = make_engines({"cache": {"root": str(tmp_path)}})
    with pytest.raises(ConfigError, match="return the images themselves"):
        await agent.tools_for(ImageView(ImageStore())).execute(ToolCall("c", "handing", {}))


def test_a_method_cannot_be_deterministic() -> None:
    with pytest.raises(ConfigError, match="move it out of its class"):

        @tool(deterministic=True)
        def method(self: object) -> str:
            """Depend on who knows what."""
            return ""


@pytest.mark.parametrize("cached", [False, True])
async def test_the_trial_calls_a_deterministic_tool_twice(cached: bool, tmp_path: Path) -> None:
    results = iter(range(10))

    @tool(deterministic=True)
    def counting() -> str:
        """Count."""
        return str(next(results))

    agent = Agent("s", backend=ScriptedBackend([]), tools=[counting, told])
    if cached:  # which would answer the second call, and the first one of a later start
        agent.engines = make_engines({"cache": {"root": str(tmp_path)}})
    unsteady, steady = await try_tools(agent, 60.0)
    assert unsteady.fault == "tool 'counting' is marked as deterministic, and gave two results for {}"
    assert steady.fault is None


def test_the_version_is_of_the_functions_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    monkeypatch.syspath_prepend(str(tmp_path))
    found = set()
    for body in ("1", "2"):
        (tmp_path / "versioned_tool.py").write_text(f"def value():\n    return {body}\n")
        module = importlib.reload(importlib.import_module("versioned_tool"))
        found.add(version_of(module.value))
    assert len(found) == 2
    assert isinstance(getattr(told, "__agentfly_tool__", None), Tool)


async def test_records_of_a_run_name_the_calls_that_the_cache_answered(tmp_path: Path) -> None:
    CALLS.clear()
    script = [f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>' for name in ("told", "told", "unkept")]

    @tool
    async def unkept() -> str:
        """Tell."""
        return "x"

    agent = Agent("s", backend=ScriptedBackend([*script, "end"]), tools=[told, unkept])
    agent.engines = make_engines({"cache": {"root": str(tmp_path)}})
    [trajectory] = await agent.run([{"role": "user", "content": "go"}])
    assert [(record.name, record.cached) for record in trajectory.tool_records] == [
        ("told", False),
        ("told", True),
        ("unkept", False),
    ]
    assert CALLS == ["told"]
