"""Runs as they happen: typed events that always end, and a console that shows them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from agentfly.agents import (
    AgentSettings,
    ChainEnd,
    ChainStart,
    Delta,
    ErrorRaised,
    Event,
    ImageEditingAgent,
    Observation,
    RunEnd,
    RunStart,
    StopReason,
    ToolEnd,
    ToolStart,
    TurnEnd,
    TurnStart,
)
from agentfly.agents.display.console import ConsoleStream, image_protocol, show_image
from agentfly.agents.llm_backends import GenerationRequest, ScriptedBackend
from agentfly.errors import BackendError, ConfigError

EDIT = (
    'Now darker. <tool_call>{"name": "qwen_edit_image", '
    '"arguments": {"image_id": "img_1", "prompt": "darken"}}</tool_call>'
)
ANSWER = (
    '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2", "description": "fine"}}</tool_call>'
)


def ask(image: Image.Image) -> dict[str, Any]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Darker."}]
    return {"id": "t", "messages": [{"role": "user", "content": content}]}


async def collect(agent: ImageEditingAgent, messages: Any, **arguments: Any) -> list[Event]:
    return [event async for event in agent.stream(messages, **arguments)]


async def test_a_stream_tells_the_whole_story(image: Image.Image) -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend([EDIT, ANSWER]), reward=lambda: 0.5)
    events = await collect(agent, ask(image))
    told = [event for event in events if not isinstance(event, Delta)]
    kinds = [TurnStart, TurnEnd, ToolStart, ToolEnd, Observation]
    assert [type(event) for event in told] == [RunStart, ChainStart, *kinds, *kinds, ChainEnd, RunEnd]
    assert told[0] == RunStart(("t-0",))
    assert "".join(e.text for e in events if isinstance(e, Delta) and e.turn == 0) == EDIT
    call = next(event for event in events if isinstance(event, ToolStart))
    assert (call.name, call.arguments) == ("qwen_edit_image", {"image_id": "img_1", "prompt": "darken"})
    seen = next(event for event in events if isinstance(event, Observation))
    end, run_end = told[-2], told[-1]
    assert isinstance(end, ChainEnd)
    assert isinstance(run_end, RunEnd)
    assert run_end.result is agent.result
    assert seen.images == (agent.trajectories[0].final_image,)
    assert (end.stop_reason, end.reward) == (StopReason.ANSWERED, 0.5)


async def test_a_failing_chain_is_an_event_and_the_others_go_on(image: Image.Image) -> None:
    def script(request: GenerationRequest) -> str:
        if request.session_id == "t-1":
            raise BackendError("the server is gone")
        return "done"

    agent = ImageEditingAgent("s", backend=ScriptedBackend(script))
    events = await collect(agent, ask(image), num_chains=3)
    assert [e for e in events if isinstance(e, ErrorRaised)] == [ErrorRaised("t-1", "the server is gone")]
    assert {e.chain: e.stop_reason.value for e in events if isinstance(e, ChainEnd)} == {
        "t-0": "no_tool_call",
        "t-1": "backend_error",
        "t-2": "no_tool_call",
    }
    assert isinstance(events[-1], RunEnd)
    assert events[-1].error is None


@pytest.mark.parametrize("messages", [[], [{"role": "robot", "content": "x"}], ask("/nowhere.png")])  # type: ignore[arg-type]
async def test_a_run_that_fails_ends_with_its_error(messages: Any) -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend(["done"]))
    events = await collect(agent, messages)
    assert isinstance(events[-2], ErrorRaised)
    end = events[-1]
    assert isinstance(end, RunEnd)
    assert end.result is None
    assert end.error


def test_wrong_arguments_of_a_stream_are_refused_at_once() -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend(["done"]))
    with pytest.raises(ConfigError, match="Did you mean 'num_chains'"):
        agent.stream([], num_chain=2)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="max_turns=0"):
        agent.stream([], max_turns=0)


@pytest.mark.parametrize("closed", [True, False])
async def test_leaving_early_cancels_the_run(closed: bool, image: Image.Image) -> None:
    stopped = asyncio.Event()

    async def script(request: GenerationRequest) -> str:
        if request.request_id.endswith("-0"):
            return EDIT
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    agent = ImageEditingAgent("s", backend=ScriptedBackend(script))
    if closed:
        async with contextlib.aclosing(agent.stream(ask(image))) as events:
            async for event in events:
                if isinstance(event, TurnStart) and event.turn == 1:
                    break
        assert agent.trajectories[0].stop_reason is StopReason.CANCELLED
    else:
        async for event in agent.stream(ask(image)):
            if isinstance(event, TurnStart) and event.turn == 1:
                break
    await asyncio.wait_for(stopped.wait(), 10)
    while not agent.trajectories:
        await asyncio.sleep(0)
    assert len(agent.trajectories[0].tool_records) == 1


async def test_chains_of_an_earlier_run_are_named_and_have_no_events(image: Image.Image, tmp_path: Path) -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend([EDIT, ANSWER]))
    await agent.run(ask(image), log_dir=tmp_path)
    events = await collect(agent, ask(image), log_dir=tmp_path)
    assert [type(event) for event in events] == [RunStart, RunEnd]
    assert events[0] == RunStart(("t-0",), ("t-0",))


def console(colours: Any = None) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=colours is not None, color_system=colours, width=200, highlight=False), out


async def shown(agent: ImageEditingAgent, messages: Any, colours: Any = None, **arguments: Any) -> str:
    target, out = console(colours)
    show = ConsoleStream(agent.store.get, target)
    async for event in agent.stream(messages, **arguments):
        await show(event)
    return out.getvalue()


async def test_one_chain_is_shown_word_by_word(image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend([EDIT, ANSWER]))
    text = await shown(agent, ask(image))
    assert text.count("Now darker.") == 1
    assert "→ qwen_edit_image(image_id='img_1', prompt='darken')" in text
    assert re.search(r"← img_2 img_[0-9a-f]{12} \d+\.\d s", text)
    assert "end: answered" in text
    assert "▀" not in text
    assert "t-0" not in text


async def test_a_failed_call_is_shown_as_one(image: Image.Image) -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend([EDIT.replace("img_1", "img_9"), "done"]))
    text = await shown(agent, ask(image), "truecolor")
    assert re.search("\x1b\\[31m← Error: ", text)


async def test_lines_of_several_chains_carry_their_names(image: Image.Image) -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend([EDIT, ANSWER]))
    lines = (await shown(agent, ask(image), num_chains=3)).splitlines()
    assert all(re.match(r"t-[012] │ ", line) for line in lines[:-1])
    assert lines[-1].startswith("3 chains in ")
    assert "3 answered" in lines[-1]
    for number in range(3):
        own = [line.partition("│ ")[2] for line in lines if line.startswith(f"t-{number} ")]
        assert own[1] == EDIT  # the turn is whole: words of different chains are never mixed


async def test_a_model_cannot_steer_the_terminal(image: Image.Image) -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend(["a\x1b[2Jb\x07c [bold]d[/bold]"]))
    text = await shown(agent, ask(image))
    assert "a\ufffd[2Jb\ufffdc [bold]d[/bold]" in text


async def test_enable_streaming_shows_the_run(image: Image.Image, capsys: pytest.CaptureFixture[str]) -> None:
    agent = ImageEditingAgent(
        "s", backend=ScriptedBackend([EDIT, ANSWER]), streaming="console", settings=AgentSettings()
    )
    await agent.run(ask(image), enable_streaming=True)
    assert "→ give_answer(" in capsys.readouterr().out
    await agent.run(ask(image))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("colours", "environment", "wanted"),
    [
        (None, {"TERM_PROGRAM": "iTerm.app"}, None),
        ("standard", {}, None),
        ("truecolor", {}, "blocks"),
        ("256", {"TERM_PROGRAM": "Apple_Terminal"}, "blocks"),
        ("truecolor", {"TERM": "xterm-kitty"}, "kitty"),
        ("truecolor", {"KITTY_WINDOW_ID": "1"}, "kitty"),
        ("truecolor", {"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ("truecolor", {"KITTY_WINDOW_ID": "1", "TMUX": "x"}, "blocks"),
    ],
)
def test_the_terminal_says_how_it_can_show_images(
    colours: Any, environment: dict[str, str], wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert image_protocol(console(colours)[0], environment) == wanted


def test_inline_images_hold_the_image() -> None:
    noise = Image.effect_noise((300, 200), 80)
    target, out = console("truecolor")
    show_image(target, noise, "kitty")
    chunks = re.findall(r"\x1b_G([^;]*);([A-Za-z0-9+/=]*)\x1b\\", out.getvalue())
    assert "a=T,f=100" in chunks[0][0]
    assert [control[-1] for control, _ in chunks] == ["1"] * (len(chunks) - 1) + ["0"]
    assert len(chunks) > 1
    assert all(len(data) <= 4096 for _, data in chunks)
    with Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in chunks)))) as read:
        assert read.size == (256, 171)
    target, out = console("truecolor")
    show_image(target, noise, "iterm2")
    match = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+);.*?:([A-Za-z0-9+/=]+)\x07\n", out.getvalue())
    assert match is not None
    assert len(base64.b64decode(match[2])) == int(match[1])


def test_half_blocks_have_the_colours_of_the_image() -> None:
    image = Image.new("RGB", (64, 64), (200, 10, 20))
    image.paste((10, 30, 220), (0, 0, 64, 2))
    target, out = console("truecolor")
    show_image(target, image.crop((0, 0, 64, 4)), "blocks")
    assert out.getvalue().count("▀") == 32
    assert "38;2;10;30;220;48;2;200;10;20" in out.getvalue()


async def test_observations_show_thumbnails_on_a_terminal_with_colours(
    image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KITTY_WINDOW_ID", "TERM_PROGRAM", "LC_TERMINAL", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    agent = ImageEditingAgent("s", backend=ScriptedBackend([EDIT, "done"]))
    assert (await shown(agent, ask(image), "truecolor")).count("▀") == 24 * 12
