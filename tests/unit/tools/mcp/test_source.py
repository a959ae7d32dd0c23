"""Foreign servers as programs: their tools work in an agent, their faults are observations, and they end with it."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from collections.abc import Awaitable, Callable

import psutil
import pytest
from PIL import Image

from agentfly.agents import Agent
from agentfly.agents.llm_backends.scripted import ScriptedBackend
from agentfly.agents.trajectory import StopReason
from agentfly.errors import ConfigError, ToolError, ToolOutage
from agentfly.images import ImageStore, ImageView
from agentfly.messages import ToolCall
from agentfly.tools import ToolResult, Toolset, tool
from agentfly.tools.mcp import McpServer, McpTools
from tests.unit.tools.mcp.foreign import connected, foreign

pytestmark = pytest.mark.slow  # each starts a program

RED = Image.new("RGB", (8, 8), "red")
CYAN = Image.new("RGB", (8, 8), "cyan")


def red_view() -> ImageView:
    view = ImageView(ImageStore())
    view.add(RED)
    return view


async def call(tools: Toolset, name: str, timeout: float | None = None, **arguments: object) -> ToolResult:
    return await tools.execute(ToolCall("c", name, arguments), timeout)


async def gone(*pids: int) -> bool:
    """Wait until no process of these is alive, for a while."""
    deadline = time.monotonic() + 10
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return not any(map(psutil.pid_exists, pids))


async def test_results_are_observations_and_images_are_named_in_the_chain() -> None:
    view = red_view()
    async with connected(foreign(), view) as tools:
        assert (await call(tools, "add", a=1, b=2)).text == "3"
        shown = await call(tools, "swatch", colour="blue")
        assert shown.text == "view_1"
        assert view.get("view_1").getpixel((0, 0)) == (0, 0, 255)
        made = await call(tools, "invert", picture="img_1")
        assert made.text == "inverted\nimg_2"
        assert view.get("img_2") == CYAN
        assert made.images == (view.handle("img_2"),)
        assert [tool.name for tool in tools if tool.looks] == ["swatch"]
        assert tools.schemas()[2]["function"]["parameters"]["properties"]["picture"]["description"].startswith("id of")


async def test_wrong_calls_are_refused_with_the_reason() -> None:
    async with connected(foreign(max_text=100), red_view()) as tools:
        with pytest.raises(ToolError, match=r"add: a: 'x' is not .*; b: -1 is less .*; unknown c\. Arguments: a, b"):
            await call(tools, "add", a="x", b=-1, c=3)
        with pytest.raises(ToolError, match="unknown image id 'img_7'"):
            await call(tools, "invert", picture="img_7")
        with pytest.raises(ToolError, match="Error executing tool refuse"):
            await call(tools, "refuse", reason="never")
        assert (
            await call(tools, "chatter", characters=1000)
        ).text == "x" * 100 + "\n(900 further characters are left out)"


async def test_a_server_that_ends_in_a_call_is_started_again_once_and_then_ends_the_chain() -> None:
    async with connected(foreign()) as tools:
        with pytest.raises(ToolError, match=r"ended during this call \(the last words\); it is started again") as ended:
            await call(tools, "die")
        assert not isinstance(ended.value, ToolOutage)
        assert (await call(tools, "add", a=1)).text == "2"
        with pytest.raises(ToolError):
            await call(tools, "die")
        with pytest.raises(ToolOutage, match="ended 2 times in a row"):
            await call(tools, "die")
        with pytest.raises(ToolOutage, match="does not work"):
            await call(tools, "add", a=1)


async def test_calls_beside_one_that_ends_the_server_fail_with_it_and_count_as_one_loss() -> None:
    async with connected(foreign()) as tools:
        ways: list[Awaitable[ToolResult]] = [call(tools, "slow", seconds=60) for _ in range(5)]
        waiting = asyncio.gather(*ways, return_exceptions=True)
        await call(tools, "add", a=1)
        with pytest.raises(ToolError):
            await call(tools, "die")
        assert {type(fault).__name__ for fault in await waiting} == {"ConnectionLost"}
        assert (await call(tools, "add", a=1)).text == "2"


async def test_a_call_that_takes_too_long_or_is_cancelled_leaves_the_server_to_others() -> None:
    async with connected(foreign(call_timeout=0.5)) as tools:
        with pytest.raises(ToolError, match=r"did not answer within 0\.5 s"):
            await call(tools, "slow", seconds=60)
        with pytest.raises(ToolError, match=r"slow timed out after 0\.1 s"):
            await call(tools, "slow", 0.1, seconds=60)
        assert (await call(tools, "add", a=1)).text == "2"


@pytest.mark.parametrize(
    ("fault", "options", "said"),
    [
        ("hang", {"start_timeout": 0.5}, r"did not answer within 0\.5 s.*raise start_timeout"),
        ("quit", {}, r"does not speak MCP.*no configuration was found"),
        ("flood", {"max_message_bytes": 10_000}, "a message of more than 10000 bytes"),
    ],
)
async def test_a_server_that_does_not_start_is_an_outage_with_its_reason(
    fault: str, options: dict[str, float], said: str
) -> None:
    with pytest.raises(ToolOutage, match=said):
        async with connected(foreign(fault, **options)):
            raise AssertionError("it started")


async def test_a_message_beyond_the_bound_gives_up_the_server_and_not_the_process() -> None:
    async with connected(foreign(max_message_bytes=100_000)) as tools:
        with pytest.raises(ToolError, match="a message of more than 100000 bytes"):
            await call(tools, "chatter", characters=2_000_000)
        assert (await call(tools, "add", a=1)).text == "2"


async def test_the_program_gets_the_variables_that_are_named_and_ends_with_its_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOREIGN_KEY", "k")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    async with connected(foreign(env=("FOREIGN_KEY",))) as tools:
        about = (await call(tools, "whereabouts")).data
        assert "FOREIGN_KEY" in about["names"]
        assert "OPENAI_API_KEY" not in about["names"]
        assert psutil.pid_exists(about["child"])
    assert await gone(about["pid"], about["child"])


def test_the_end_of_the_event_loop_ends_the_program() -> None:
    source = McpTools(foreign())

    async def start() -> int:
        await source.prepare()
        tools = Toolset(source.tools(ImageView(ImageStore())))
        return int((await call(tools, "whereabouts")).data["pid"])

    pids = [asyncio.run(start()) for _ in range(2)]
    assert len(set(pids)) == 2, "each loop has a connection of its own"
    assert not any(map(psutil.pid_exists, pids))


async def test_settings_travel_to_other_processes_and_name_what_does_not_exist() -> None:
    server = foreign(include=("add", "swatch"), prefix="far_")
    async with connected(pickle.loads(pickle.dumps(server))) as tools:
        assert [tool.name for tool in tools] == ["far_add", "far_swatch"]
    for options in ({"include": ("ad",)}, {"exclude": ("ad",)}, {"images": {"ad": ("a",)}}):
        with pytest.raises(ConfigError, match=r"unknown tool 'ad'\. Did you mean 'add'"):
            await McpTools(foreign(**options)).prepare()
    with pytest.raises(ConfigError, match="it has no argument 'image'; it has picture"):
        await McpTools(foreign(images={"invert": ("image",)})).prepare()


def turns(*texts: str) -> ScriptedBackend:
    return ScriptedBackend(texts)


def calls(name: str, arguments: str) -> str:
    return f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'


async def test_chains_of_an_agent_use_a_foreign_tool_each_on_its_own_images() -> None:
    script = [calls("invert", '{"picture": "img_1"}'), calls("swatch", '{"colour": "blue"}'), "done"]
    agent = Agent("scripted", backend=turns(*script), tools=[foreign()])
    try:
        message = {"role": "user", "content": [{"type": "image", "image": RED}, {"type": "text", "text": "invert it"}]}
        result = await agent.run([message], num_chains=4)
        for trajectory in result:
            assert trajectory.stop_reason is StopReason.NO_TOOL_CALL
            assert trajectory.names == {name: trajectory.names[name] for name in ("img_1", "img_2", "view_1")}
            assert agent.store.get(trajectory.names["img_2"]) == CYAN
            assert [record.error for record in trajectory.tool_records] == [None, None]
            assert [record.engine for record in trajectory.tool_records] == [foreign().short_name and "mcp:python"] * 2
    finally:
        await agent.close()


async def test_an_agent_whose_server_ends_goes_on_and_one_whose_server_is_gone_fails_its_chain() -> None:
    script = [calls("die", "{}"), calls("add", '{"a": 1}'), calls("die", "{}"), calls("die", "{}"), "never"]
    agent = Agent("scripted", backend=turns(*script), tools=[foreign()])
    try:
        (trajectory,) = await agent.run([{"role": "user", "content": "go"}])
        assert [record.error is None for record in trajectory.tool_records] == [False, True, False, False]
        assert trajectory.stop_reason is StopReason.TOOL_OUTAGE
    finally:
        await agent.close()


async def test_names_that_two_tools_share_are_found_before_the_first_chain() -> None:
    @tool
    def add(a: int) -> str:
        """Add."""
        return str(a)

    agent = Agent("scripted", backend=turns("done"), tools=[add, foreign()])
    with pytest.raises(ConfigError, match="two tools are named 'add'"):
        await agent.run([{"role": "user", "content": "go"}])
    await agent.close()
    with pytest.raises(ConfigError, match="are not known yet"):
        list(McpTools(foreign()).tools(ImageView(ImageStore())))


async def test_an_agent_does_not_close_a_source_that_it_was_given() -> None:
    async with McpTools(foreign()) as source:
        agents: list[Agent] = [Agent("scripted", backend=turns("done"), tools=[source]) for _ in range(2)]
        for agent in agents:
            await agent.run([{"role": "user", "content": "go"}])
            await agent.close()
        tools = Toolset(source.tools(ImageView(ImageStore())))
        assert (await call(tools, "whereabouts")).data["pid"] != os.getpid()


def test_settings_refuse_what_does_not_fit() -> None:
    wrong: list[tuple[Callable[[], McpServer], str]] = [
        (lambda: McpServer(), "either a command or a url"),
        (lambda: McpServer(command="a", url="http://x"), "either a command or a url"),
        (lambda: McpServer(url="x"), "write https://HOST/mcp"),
        (lambda: McpServer(url="http://x", env=("A",)), "are for a command"),
        (lambda: McpServer(command="a", key_env="A"), "key_env is for a url"),
        (lambda: McpServer(command="a", prefix="a b"), "prefix: use at most 32"),
        (lambda: McpServer.read({"mcp": []}), "a program and its arguments"),
    ]
    for make, said in wrong:
        with pytest.raises(ConfigError, match=said):
            make()
    assert McpServer.read({"mcp": ["uvx", "x", "y"], "prefix": "p_"}) == McpServer(
        command="uvx", args=("x", "y"), prefix="p_"
    )
    assert McpServer.read({"mcp": "http://user:pass@h:1/mcp?key=1"}).label == "MCP server 'http://h:1/mcp'"


async def test_a_flood_of_lines_that_are_no_messages_gives_up_the_server() -> None:
    server = foreign("babble")
    with pytest.raises(ToolOutage, match="lines that are no messages"):
        await McpTools(server).prepare()
