"""The few methods that a subclass of an agent may override, in the one rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from agentfly.agents import Agent, AgentSettings, Chain, ImageEditingAgent, RolloutLimits, StopReason, Trajectory
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.errors import ConfigError
from agentfly.images import ImageView
from agentfly.messages import ToolCall
from agentfly.tools import ToolResult, Toolset, tool
from tests.unit.agents.calls import call

DARKER = call("qwen_edit_image", image_id="img_1", prompt="darken")
ANSWER = call("give_answer", final_image_id="img_2")


async def run(agent: Agent, text: str = "Darker.", **metadata: object) -> Trajectory:
    content = [{"type": "image", "image": Image.new("RGB", (16, 16), (200, 90, 30))}, {"type": "text", "text": text}]
    return (await agent.run({"messages": [{"role": "user", "content": content}], **metadata}))[0]


async def test_observe_changes_what_the_policy_sees_and_not_the_record() -> None:
    class Brief(ImageEditingAgent):
        def observe(self, result: ToolResult, call: ToolCall, chain: Chain) -> ToolResult:
            assert chain.trajectory.tool_records[-1].name == call.name
            return replace(result, text=f"{call.name}: done, {result.text}", images=())

    trajectory = await run(Brief("s", backend=ScriptedBackend([DARKER, ANSWER])))
    observation = next(message for message in trajectory.messages if message.role == "tool")
    assert observation.text.startswith("qwen_edit_image: done, img_2")
    assert observation.images == ()
    assert trajectory.tool_records[0].images == (trajectory.names["img_2"],)
    assert trajectory.answered


async def test_toolset_may_have_functions_that_take_and_return_images() -> None:
    @tool
    def negative(image: Image.Image) -> Image.Image:
        """Invert."""
        return ImageOps.invert(image)

    class Inverting(ImageEditingAgent):
        def toolset(self, view: ImageView) -> Toolset:
            return Toolset([*super().toolset(view), negative])

    agent = Inverting("s", backend=ScriptedBackend([call("negative", image="img_1"), ANSWER]))
    trajectory = await run(agent, "Invert.")
    assert trajectory.final_image is not None
    assert agent.store.get(trajectory.final_image).getpixel((0, 0)) == (55, 165, 225)


async def test_stop_ends_a_chain_that_is_scored_as_it_stands() -> None:
    class Once(ImageEditingAgent):
        def stop(self, chain: Chain) -> bool:
            chain.state["seen"] = len(chain.trajectory.tool_records)
            return chain.trajectory.final_image is not None

    agent = Once("s", backend=ScriptedBackend([DARKER, ANSWER]), reward=lambda trajectory: len(trajectory.turns))
    trajectory = await run(agent)
    assert (trajectory.stop_reason, trajectory.reward) == (StopReason.STOPPED, 1.0)
    assert trajectory.final_image == trajectory.names["img_2"]


async def test_the_system_prompt_may_depend_on_the_task(tmp_path: Path) -> None:
    class Prompted(ImageEditingAgent):
        def system_prompt(self, metadata: Mapping[str, object]) -> str | None:
            return f"Level {metadata['level']}." if "level" in metadata else None

    agent = Prompted("s", backend=ScriptedBackend(["Nothing."]))
    assert (await run(agent, level=3)).messages[0].text == "Level 3."
    assert (await run(agent)).messages[0].role == "user"
    # It belongs to the conversation: a log knows another one.
    conversation = {"messages": [{"role": "user", "content": "Go."}], "id": "a"}
    first = await agent.run({**conversation, "level": 1}, log_dir=tmp_path)
    assert first[0].messages[0].text == "Level 1."
    with pytest.raises(ConfigError, match="another conversation under the id"):
        await agent.run({**conversation, "level": 2}, log_dir=tmp_path)


async def test_on_finish_comes_before_the_reward_sync_or_async() -> None:
    class Finishing(ImageEditingAgent):
        def on_finish(self, chain: Chain) -> Awaitable[None] | None:
            async def later() -> None:
                await asyncio.sleep(0)
                chain.trajectory.metadata["ended"] = str(chain.trajectory.stop_reason)

            return later()

    agent = Finishing("s", backend=ScriptedBackend([DARKER, ANSWER]), reward=lambda ended: float(ended == "answered"))
    assert (await run(agent)).reward == 1.0


@pytest.mark.parametrize("hook", ["observe", "stop", "on_finish"])
async def test_a_hook_that_fails_ends_its_chain_alone_and_names_the_line(hook: str) -> None:
    def failing(*_: object) -> None:
        raise ValueError("my own fault")

    kind = type("Failing", (ImageEditingAgent,), {hook: failing})
    trajectory = await run(kind("s", backend=ScriptedBackend([DARKER, ANSWER])))
    assert trajectory.stop_reason is StopReason.ERROR
    assert "ValueError: my own fault" in str(trajectory.error)
    assert f"{__file__}:" in str(trajectory.error)


async def test_an_on_finish_that_hangs_is_cut_off() -> None:
    class Hanging(ImageEditingAgent):
        def on_finish(self, chain: Chain) -> Awaitable[None] | None:
            return asyncio.Event().wait()  # type: ignore[return-value]

    settings = AgentSettings(limits=RolloutLimits(tool_timeout=0.05))
    trajectory = await run(Hanging("s", backend=ScriptedBackend(["No."]), settings=settings))
    assert trajectory.error == "on_finish took longer than 0.05 s"


async def test_whoever_cancels_a_chain_waits_for_its_hook_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentfly.agents.rollout._FAREWELL", 0.05)
    begun = asyncio.Event()

    class Waiting(ImageEditingAgent):
        def on_finish(self, chain: Chain) -> Awaitable[None] | None:
            return asyncio.Event().wait()  # type: ignore[return-value]

        @tool
        async def wait(self) -> str:
            """Wait."""
            begun.set()
            await asyncio.Event().wait()
            return ""

    agent = Waiting("s", backend=ScriptedBackend([call("wait")]))
    running = asyncio.ensure_future(run(agent))
    await begun.wait()
    running.cancel()
    done, _ = await asyncio.wait({running}, timeout=5.0)
    assert done
    assert agent.result[0].stop_reason is StopReason.CANCELLED
    assert agent.result[0].error == "on_finish took longer than 0.05 s"


@pytest.mark.parametrize("hook", ["toolset", "system_prompt", "observe", "stop"])
def test_a_hook_that_may_not_be_async_is_refused(hook: str) -> None:
    async def late(*_: object) -> None: ...

    kind = type("Late", (ImageEditingAgent,), {hook: late})
    with pytest.raises(ConfigError, match=f"{hook} of Late is async: write it as a plain def"):
        kind("s", backend=ScriptedBackend([]))


async def test_a_prompt_that_fails_for_one_conversation_ends_no_other() -> None:
    class Levelled(ImageEditingAgent):
        def system_prompt(self, metadata: Mapping[str, object]) -> str | None:
            return f"Level {metadata['level']}."

    agent = Levelled("s", backend=ScriptedBackend(["No."]))
    talk: dict[str, object] = {"messages": [{"role": "user", "content": "Go."}]}
    failed, done = await agent.run([talk, {**talk, "level": 1}])
    assert (failed.stop_reason, done.stop_reason) == (StopReason.ERROR, StopReason.NO_TOOL_CALL)
    assert f"KeyError: 'level' ({__file__}:" in str(failed.error)
    assert failed.messages[0].text == "Go."


async def test_an_observe_that_returns_nothing_is_named() -> None:
    class Silent(ImageEditingAgent):
        def observe(self, result: ToolResult, call: ToolCall, chain: Chain) -> ToolResult:
            return None  # type: ignore[return-value]

    trajectory = await run(Silent("s", backend=ScriptedBackend([DARKER, ANSWER])))
    assert "observe of Silent returns a ToolResult, not None" in str(trajectory.error)


async def test_a_tool_that_fails_names_the_persons_line() -> None:
    class Faulty(ImageEditingAgent):
        @tool
        def divide(self) -> str:
            """Divide."""
            return str(1 / 0)

    trajectory = await run(Faulty("s", backend=ScriptedBackend([call("divide")])))
    assert str(trajectory.error).startswith(f"ZeroDivisionError: division by zero ({__file__}:")


async def test_an_agent_without_images_runs_on_words() -> None:
    class Adding(Agent):
        @tool(final=True)
        def answer(self, number: int) -> str:
            """Give the answer."""
            return str(number)

    agent = Adding(
        "s", backend=ScriptedBackend([call("answer", number=5)]), reward=lambda prediction: prediction == "5"
    )
    (trajectory,) = await agent.run([{"role": "user", "content": "What is 2 + 3?"}])
    assert (trajectory.answered, trajectory.answer, trajectory.reward) == (True, "5", 1.0)
    assert trajectory.images == []
