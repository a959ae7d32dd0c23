"""The rollout loop: stop reasons, failures that stay on their chain, exact tokens with images in tool turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from agentfly.agents import (
    AgentSettings,
    Event,
    ImageEditingAgent,
    Rollout,
    RolloutLimits,
    RunResult,
    StopReason,
    Trajectory,
)
from agentfly.agents.llm_backends import Generation, GenerationRequest, ScriptedBackend
from agentfly.errors import AgentFlyError, BackendError, ToolOutage
from agentfly.templates import ChatCodec, load_template
from agentfly.tools import ToolResult, tool

EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "brighten"}}</tool_call>'
ANSWER = (
    '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2", "description": "done"}}</tool_call>'
)

Script = list[str] | Callable[[GenerationRequest], str | Generation]


async def run(
    script: Script, image: Image.Image, codec: ChatCodec | None = None, chains: int = 1, **limits: float
) -> tuple[ImageEditingAgent, RunResult]:
    settings = AgentSettings(system_prompt=None, limits=RolloutLimits(**limits))  # type: ignore[arg-type]
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(script, codec=codec), settings=settings)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Make it brighter."}]
    return agent, await agent.run([{"role": "user", "content": content}], num_chains=chains)


@pytest.fixture(scope="module")
def codec(tiny_policy: Path) -> ChatCodec:
    return ChatCodec.from_pretrained(str(tiny_policy))


async def test_a_chain_edits_and_answers(image: Image.Image) -> None:
    agent, result = await run([EDIT, ANSWER], image)
    trajectory = result[0]
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert trajectory.answer == "done"
    assert [record.name for record in trajectory.tool_records] == ["qwen_edit_image", "give_answer"]
    edited = agent._get_image(trajectory.final_image or "")
    assert edited.size == image.size
    assert sum(edited.convert("L").tobytes()) > sum(image.convert("L").tobytes())


@pytest.mark.parametrize(
    ("script", "limits", "reason"),
    [
        # What comes first in the documented order wins.
        ([EDIT + EDIT], {"max_tool_calls": 1, "max_turns": 1, "max_images": 1}, StopReason.MAX_TOOL_CALLS),
        ([EDIT], {"max_turns": 1, "max_images": 1}, StopReason.MAX_TURNS),
        ([ANSWER.replace("img_2", "img_1")], {"max_turns": 1}, StopReason.ANSWERED),
        (["I am done."], {}, StopReason.NO_TOOL_CALL),
        ([EDIT, EDIT, EDIT], {"max_turns": 2}, StopReason.MAX_TURNS),
        ([EDIT + EDIT], {"max_tool_calls": 1}, StopReason.MAX_TOOL_CALLS),
        ([EDIT, ANSWER], {"max_images": 1}, StopReason.CONTEXT_FULL),
        ([EDIT, ANSWER], {"wall_clock": -1.0}, StopReason.WALL_CLOCK),
    ],
)
async def test_limits_end_a_chain_with_their_reason(
    script: list[str], limits: dict[str, Any], reason: StopReason, image: Image.Image
) -> None:
    _, result = await run(script, image, **limits)
    assert result[0].stop_reason is reason


async def test_a_failing_tool_is_an_observation(image: Image.Image) -> None:
    wrong = EDIT.replace("img_1", "img_7")
    _, result = await run([wrong, EDIT, ANSWER], image)
    observation = result[0].messages[2].text
    assert observation.startswith("Error: ")
    assert "img_1" in observation
    assert result[0].stop_reason is StopReason.ANSWERED


class OutOfOrder(ImageEditingAgent):
    """One of its tools is done by servers that are gone."""

    @tool
    async def polish(self) -> ToolResult:
        """Fail as a pool of servers does."""
        raise ToolOutage("no image server can be reached (http://h:1: cannot connect)")


async def test_a_tool_that_is_out_of_order_ends_its_chain_as_failed_and_unscored(image: Image.Image) -> None:
    asked: list[Trajectory] = []

    def score(trajectory: Trajectory) -> float:
        asked.append(trajectory)
        return 1.0

    call = '<tool_call>{"name": "polish", "arguments": {}}</tool_call>'
    agent = OutOfOrder("scripted", backend=ScriptedBackend([EDIT, call, ANSWER]), reward=score)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Make it brighter."}]
    [trajectory] = await agent.run([{"role": "user", "content": content}])
    assert trajectory.stop_reason is StopReason.TOOL_OUTAGE
    assert trajectory.stop_reason.failed
    assert trajectory.error == "no image server can be reached (http://h:1: cannot connect)"
    assert trajectory.tool_records[-1].error == trajectory.error
    assert trajectory.final_image is not None  # the edit before it is kept
    assert (asked, trajectory.reward) == ([], None)


class Slicer(ImageEditingAgent):
    """Makes an image that the processors of Qwen refuse."""

    @tool
    async def slice(self) -> ToolResult:
        """Return one column of pixels."""
        handle = self.store.put(Image.linear_gradient("L").resize((1, 400)).convert("RGB"))
        return ToolResult("Cut img_2.", images=(handle,))


async def test_an_image_that_the_policy_cannot_be_shown_is_an_observation(image: Image.Image, codec: ChatCodec) -> None:
    call = '<tool_call>{"name": "slice", "arguments": {}}</tool_call>'
    agent = Slicer("scripted", backend=ScriptedBackend([call, ANSWER], codec=codec))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Cut it."}]
    [trajectory] = await agent.run([{"role": "user", "content": content}])
    observation = next(message for message in trajectory.messages if message.role == "tool")
    assert "img_2: the model cannot be shown an image of 1x400 pixels" in observation.text
    assert (observation.images, len(trajectory.images)) == ((), 1)
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert trajectory.final_image is not None


async def test_an_image_of_a_prompt_that_cannot_be_shown_fails_its_chain_alone(
    image: Image.Image, codec: ChatCodec
) -> None:
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(["done"], codec=codec))
    chats = [
        [{"role": "user", "content": [{"type": "image", "image": each}, {"type": "text", "text": "Edit it."}]}]
        for each in (Image.new("RGB", (400, 1)), image)
    ]
    result = await agent.run(chats)
    assert [trajectory.stop_reason for trajectory in result] == [StopReason.ERROR, StopReason.NO_TOOL_CALL]
    assert "cannot be shown an image of 400x1 pixels" in (result[0].error or "")


async def test_malformed_calls_are_observations_and_counted(image: Image.Image) -> None:
    _, result = await run(['<tool_call>{"name": 3}</tool_call>', ANSWER.replace("img_2", "img_1")], image)
    assert [record.malformed for record in result[0].tool_records] == [True, False]


async def test_one_failing_chain_leaves_the_others(image: Image.Image) -> None:
    def script(request: GenerationRequest) -> str:
        if request.session_id.endswith("-1"):
            raise BackendError("the server is gone")
        if request.session_id.endswith("-2"):
            raise RuntimeError("a bug")
        return "done"

    _, result = await run(script, image, chains=4)
    reasons = [trajectory.stop_reason for trajectory in result]
    assert reasons == [
        StopReason.NO_TOOL_CALL,
        StopReason.BACKEND_ERROR,
        StopReason.ERROR,
        StopReason.NO_TOOL_CALL,
    ]
    assert result[1].error == "the server is gone"
    assert "RuntimeError" in (result[2].error or "")
    assert len({trajectory.group_id for trajectory in result}) == 1


async def test_cancelling_keeps_what_is_done(image: Image.Image) -> None:
    reached = asyncio.Event()

    async def script(request: GenerationRequest) -> str:
        if len(request.messages) == 1:
            return EDIT
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError("never")

    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(script), settings=AgentSettings(system_prompt=None))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Brighter."}]
    task = asyncio.create_task(agent.run([{"role": "user", "content": content}]))
    await asyncio.wait_for(reached.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert agent.trajectories[0].stop_reason is StopReason.CANCELLED
    assert len(agent.trajectories[0].tool_records) == 1


async def test_tokens_are_exact_with_images_in_tool_turns(image: Image.Image, codec: ChatCodec) -> None:
    agent, result = await run([EDIT, ANSWER], image, codec)
    trajectory = result[0]
    trajectory.check(codec, agent.store.get)
    tokens = trajectory.tokens
    assert tokens is not None
    assert len(codec.image_runs(tokens.ids)) == len(trajectory.images) == 2
    sampled = [i for i, mask in zip(tokens.response_ids, tokens.mask, strict=True) if mask]
    assert codec.decode(sampled) == EDIT + ANSWER
    # The conversation as a whole, up to the last turn, renders to the very same ids.
    assert (
        codec.prompt_ids(trajectory.messages[:-1], agent.toolset(agent.images).schemas(), agent.store.get)
        == (tokens.ids[: len(tokens.prompt_ids) + trajectory.turns[-1].start])
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=st.lists(
        st.sampled_from([EDIT, EDIT + EDIT, EDIT.replace("img_1", "x"), "<tool_call>{", ANSWER]), max_size=5
    )
)
def test_any_conversation_checks(script: list[str], image: Image.Image, codec: ChatCodec) -> None:
    agent, result = asyncio.run(run([*script, "done"], image, codec, max_turns=5))
    result[0].check(codec, agent.store.get)
    assert Trajectory.from_json(result[0].to_json()) == result[0]


async def test_a_wrong_trace_does_not_check(image: Image.Image, codec: ChatCodec) -> None:
    agent, result = await run([EDIT, ANSWER], image, codec)
    tokens = result[0].tokens
    assert tokens is not None
    tokens.response_ids.remove(codec.image_id)
    tokens.mask.remove(0)
    tokens.logprobs.remove(0.0)
    with pytest.raises(AgentFlyError):
        result[0].check(codec, agent.store.get)


async def test_response_budget_ends_at_a_turn_boundary(image: Image.Image, codec: ChatCodec) -> None:
    agent, result = await run([EDIT, ANSWER], image, codec, max_response_tokens=60)
    trajectory = result[0]
    assert trajectory.stop_reason is StopReason.CONTEXT_FULL
    assert trajectory.tokens is not None
    assert len(trajectory.tokens.response_ids) <= 60
    trajectory.check(codec, agent.store.get)


async def test_events_tell_the_story_in_order(image: Image.Image) -> None:
    events: list[Event] = []

    async def keep(event: Event) -> None:
        events.append(event)

    agent = ImageEditingAgent("scripted", backend=ScriptedBackend([EDIT, ANSWER]))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Brighter."}]
    chain = agent.chain({"messages": [{"role": "user", "content": content}]}, "g")
    await Rollout(agent.backend, on_event=keep).run(chain)
    kinds = [event.kind for event in events if event.kind != "delta"]
    turn = ["turn_start", "turn_end", "tool_start", "tool_end", "observation"]
    assert kinds == ["chain_start", *turn, *turn, "chain_end"]


async def test_a_listener_that_fails_ends_nothing(image: Image.Image) -> None:
    heard: list[Event] = []

    async def broken(event: Event) -> None:
        heard.append(event)
        raise BrokenPipeError

    agent = ImageEditingAgent("scripted", backend=ScriptedBackend([EDIT, ANSWER]))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Brighter."}]
    chain = agent.chain({"messages": [{"role": "user", "content": content}]}, "g")
    trajectory = await Rollout(agent.backend, on_event=broken).run(chain)
    assert trajectory.stop_reason is StopReason.ANSWERED
    assert len(heard) == 1


async def test_a_backend_that_hangs_is_bounded_by_the_wall_clock(image: Image.Image) -> None:
    stopped = asyncio.Event()

    async def script(request: GenerationRequest) -> str:
        if request.request_id.endswith("-0"):
            return EDIT
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.set()
            await asyncio.Event().wait()  # it does not even go when it is told to
        return "never"

    _, result = await asyncio.wait_for(run(script, image, wall_clock=0.2), 10)  # type: ignore[arg-type]
    assert result[0].stop_reason is StopReason.WALL_CLOCK
    assert len(result[0].turns) == 1
    await asyncio.wait_for(stopped.wait(), 10)


async def test_a_backend_that_cancels_itself_fails_its_chain_only(image: Image.Image) -> None:
    def script(request: GenerationRequest) -> str:
        if request.session_id.endswith("-0"):
            raise asyncio.CancelledError
        return "done"

    _, result = await run(script, image, chains=2)
    assert [t.stop_reason for t in result] == [StopReason.BACKEND_ERROR, StopReason.NO_TOOL_CALL]


async def test_a_turn_that_is_cut_names_the_limit_that_cut_it(image: Image.Image, codec: ChatCodec) -> None:
    _, by_turn = await run(["brighten " * 50], image, codec, max_tokens_per_turn=8)
    _, by_room = await run(["brighten " * 50], image, codec, max_response_tokens=8)
    assert by_turn[0].stop_reason is StopReason.MAX_TOKENS
    assert by_room[0].stop_reason is StopReason.CONTEXT_FULL


async def test_an_image_that_a_tool_does_not_name_is_named_for_the_policy(image: Image.Image) -> None:
    class Own(ImageEditingAgent):
        @tool
        def mirror(self, image_id: str) -> ToolResult:
            """Mirror an image."""
            turned = self.images.get(image_id).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return ToolResult("mirrored", (self.store.put(turned),))

    call = '<tool_call>{"name": "mirror", "arguments": {"image_id": "img_1"}}</tool_call>'
    agent = Own("scripted", backend=ScriptedBackend([call, "done"]))
    result = await agent.run([{"role": "user", "content": [{"type": "image", "image": image}]}])
    assert result[0].messages[3].text == "mirrored\nimg_2: "
    assert result[0].names["img_2"] == result[0].final_image


async def test_a_call_that_is_drafted_in_a_thought_is_not_carried_out(image: Image.Image) -> None:
    thought = f"<think>Maybe {ANSWER}? No.</think>Which circle?"
    _, result = await run([thought], image)
    assert result[0].stop_reason is StopReason.NO_TOOL_CALL
    assert result[0].tool_records == []
    assert result[0].messages[-1].text == thought


@pytest.mark.parametrize("swallowed", [f"<think>I answer. {ANSWER}", f"{ANSWER}</think>"])
async def test_a_call_that_a_thought_swallows_is_told_to_the_policy(swallowed: str, image: Image.Image) -> None:
    _, result = await run([swallowed, ANSWER.replace("img_2", "img_1")], image)
    assert result[0].stop_reason is StopReason.ANSWERED
    first, second = result[0].tool_records
    assert (first.error, second.error) == ("the call stood inside your thought: write it after </think>", None)


async def test_an_answer_that_is_a_line_of_python_ends_the_chain(image: Image.Image) -> None:
    _, result = await run(["The answer is:\nf(x=1)"], image)
    assert result[0].stop_reason is StopReason.NO_TOOL_CALL


async def test_a_thought_that_the_template_opened_and_a_limit_cut_has_no_call(
    image: Image.Image, tiny_policy: Path
) -> None:
    template = load_template("qwen2.5-vl-system-tool")
    opened = ChatCodec.from_pretrained(str(tiny_policy)).processor
    codec = ChatCodec(opened, f"{template}{{{{ '<think>\n' if add_generation_prompt }}}}")
    assert codec.opens_thought
    for text, wrong in ((f"Maybe {EDIT}", True), (f"Maybe.</think>{EDIT}", False)):
        _, result = await run([text], image, codec, max_turns=1)
        assert result[0].stop_reason is StopReason.MAX_TURNS, result[0].error
        assert [record.error is not None for record in result[0].tool_records] == [wrong]
    cut = len(codec.tokenizer(f"Maybe {EDIT}")["input_ids"])
    _, result = await run([f"Maybe {EDIT} or not."], image, codec, max_tokens_per_turn=cut)
    assert EDIT in result[0].turns[0].text
    assert result[0].stop_reason is StopReason.MAX_TOKENS
    assert result[0].tool_records == []


def test_the_shipped_templates_open_no_thought(codec: ChatCodec) -> None:
    assert not codec.opens_thought


async def test_a_long_text_is_parsed_beside_the_other_chains(image: Image.Image) -> None:
    """The first chain's text is parsed in a thread; its call is carried out all the same."""
    _, result = await run(["word " * 8000 + EDIT, ANSWER], image)
    assert result[0].stop_reason is StopReason.ANSWERED
