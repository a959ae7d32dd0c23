"""Runs beside run, agents beside agents, and what a cancelled run leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent, RunResult, StopReason
from agentfly.agents.llm_backends import GenerationRequest, ScriptedBackend
from agentfly.errors import ImageError
from agentfly.images import load_image
from tests import programs

EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "darken"}}</tool_call>'


def ask(words: str, image: Any = None, **more: Any) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": words}]
    if image is not None:
        content.append({"type": "image", "image": image})
    return {"messages": [{"role": "user", "content": content}], **more}


async def test_runs_of_one_agent_at_the_same_time_keep_apart() -> None:
    gate = asyncio.Event()
    sessions: list[str] = []

    async def script(request: GenerationRequest) -> str:
        words = request.messages[-1].text
        sessions.append(request.session_id)
        if words == "slow":
            await gate.wait()
        return f"said {words}"

    agent = ImageEditingAgent("s", backend=ScriptedBackend(script), settings=AgentSettings())
    slow = asyncio.create_task(agent.run(ask("slow", id="same"), num_chains=2))
    await asyncio.sleep(0)
    fast = await agent.run(ask("fast", id="same"), num_chains=2)
    assert agent.result is fast
    gate.set()
    other = await slow
    assert agent.result is other
    assert [t.messages[-1].text for t in fast] == ["said fast"] * 2
    assert [t.messages[-1].text for t in other] == ["said slow"] * 2
    # The same ids for people, but never the same request for the engine.
    assert [t.id for t in fast] == [t.id for t in other] == ["same-0", "same-1"]
    assert len(set(sessions)) == 4


async def test_agents_on_one_backend_do_not_disturb_one_another() -> None:
    backend = ScriptedBackend([EDIT, "done"])
    images = [Image.new("RGB", (16, 16), (value, 90, 200)) for value in (10, 200)]
    agents = [ImageEditingAgent("s", backend=backend) for _ in images]
    results = await asyncio.gather(
        *(agent.run(ask("x", image, id="t")) for agent, image in zip(agents, images, strict=True))
    )
    for agent, image, result in zip(agents, images, results, strict=True):
        assert agent.result is result
        assert agent.store.get(result[0].names["img_1"]).tobytes() == image.tobytes()
        assert result[0].tool_records[0].error is None
    assert results[0][0].names["img_2"] not in agents[1].store


async def test_cancelling_keeps_what_is_finished_and_marks_the_rest() -> None:
    stuck = asyncio.Event()

    async def script(request: GenerationRequest) -> str:
        if request.messages[-1].text == "hang":
            stuck.set()
            await asyncio.Event().wait()
        return "done"

    agent = ImageEditingAgent("s", backend=ScriptedBackend(script), settings=AgentSettings(max_concurrent_chains=1))
    task = asyncio.create_task(agent.run([ask("go"), ask("hang"), ask("wait")]))
    await asyncio.wait_for(stuck.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [t.stop_reason for t in agent.trajectories] == [
        StopReason.NO_TOOL_CALL,
        StopReason.CANCELLED,
        StopReason.CANCELLED,
    ]
    assert agent.result.metrics["stop/cancelled"] == 2


INTERRUPTED = """
import asyncio, os, signal
from agentfly.agents import AgentSettings, ImageEditingAgent
from agentfly.agents.llm_backends import ScriptedBackend

async def script(request):
    if request.messages[-1].text == "hang":
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()
    return "done"

settings = AgentSettings(max_concurrent_chains=1)
agent = ImageEditingAgent("s", backend=ScriptedBackend(script), settings=settings)
ask = lambda words: [{"role": "user", "content": words}]
try:
    asyncio.run(agent.run([ask("go"), ask("hang")]))
except KeyboardInterrupt:
    print([t.stop_reason.value for t in agent.trajectories])
"""


def test_ctrl_c_keeps_what_is_finished() -> None:
    done = programs.run("-c", INTERRUPTED)
    assert done.stdout.strip() == "['no_tool_call', 'cancelled']", done.stderr


async def test_no_more_chains_run_than_allowed() -> None:
    running, most = 0, 0

    async def script(request: GenerationRequest) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return "done"

    agent = ImageEditingAgent("s", backend=ScriptedBackend(script), settings=AgentSettings(max_concurrent_chains=3))
    await agent.run([ask(str(i)) for i in range(4)], num_chains=3)
    assert most == 3


async def test_an_image_is_loaded_once_for_all_chains(monkeypatch: pytest.MonkeyPatch, image: Image.Image) -> None:
    loaded: list[object] = []

    def load(*given: Any) -> Image.Image:
        loaded.append(given)
        return load_image(*given)

    monkeypatch.setattr("agentfly.agents.run.load_image", load)
    result = await ImageEditingAgent("s", backend=ScriptedBackend(["done"])).run(ask("x", image), num_chains=5)
    assert len(loaded) == 1
    assert all(list(t.names) == ["img_1"] for t in result)


async def test_an_image_that_cannot_be_loaded_fails_its_chains_only(image: Image.Image) -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend(["done"]))
    result = await agent.run([ask("a", image), ask("b", "/nowhere.png"), ask("c")], num_chains=2)
    assert [t.stop_reason for t in result] == [
        *[StopReason.NO_TOOL_CALL] * 2,
        *[StopReason.ERROR] * 2,
        *[StopReason.NO_TOOL_CALL] * 2,
    ]
    assert "/nowhere.png" in (result[2].error or "")
    assert result[2].messages[0].text == "b"
    with pytest.raises(ImageError, match=r"/nowhere\.png"):
        await agent.run(ask("b", "/nowhere.png"), num_chains=2)


async def test_conversations_of_the_same_id_are_told_apart() -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend(["done"]))
    result = await agent.run([ask("a", id="t"), ask("b", id="t"), ask("c", id=0)])
    assert [t.id for t in result] == ["t-0", "t.2-0", "0-0"]


async def test_any_iterable_of_conversations_is_run() -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend(["done"]))
    result = await agent.run(ask(str(i)) for i in range(3))  # type: ignore[arg-type]
    assert isinstance(result, RunResult)
    assert len(result) == 3


@pytest.fixture(autouse=True)
async def no_session_stays_open() -> AsyncIterator[None]:
    from agentfly.agents import run

    yield
    assert not run._SESSIONS
