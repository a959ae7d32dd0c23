"""A thought that its limit cuts is closed, the answer follows, and every sampled id stays where it was sampled."""

from __future__ import annotations

import pytest
from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent, RolloutLimits, RunResult, StopReason
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.messages import ToolCall
from agentfly.templates import ChatCodec, load_template
from tests.tiny.families import build_family

EDIT = (
    "<tool_call>\n<function=qwen_edit_image>\n<parameter=image_id>\nimg_1\n</parameter>\n"
    "<parameter=prompt>\nbrighten\n</parameter>\n</function>\n</tool_call>"
)
ANSWER = (
    "<tool_call>\n<function=give_answer>\n<parameter=final_image_id>\nimg_2\n</parameter>\n"
    "<parameter=description>\ndone\n</parameter>\n</function>\n</tool_call>"
)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> ChatCodec:
    folder = tmp_path_factory.mktemp("thinking")
    return ChatCodec.from_pretrained(str(build_family("qwen3_5", folder, load_template("qwen3.5"))))


async def run(script: list[str], codec: ChatCodec | None, **limits: int) -> tuple[ImageEditingAgent, RunResult]:
    settings = AgentSettings(system_prompt=None, limits=RolloutLimits(**limits))
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(script, codec=codec), settings=settings)
    content = [{"type": "image", "image": Image.new("RGB", (96, 96), (90, 60, 30))}, {"type": "text", "text": "Edit."}]
    return agent, await agent.run([{"role": "user", "content": content}], num_chains=1)


async def test_a_cut_thought_is_closed_and_the_answer_is_a_turn_of_its_own(codec: ChatCodec) -> None:
    thought = f"Maybe {EDIT} would do, or something else that takes long to say."
    agent, result = await run([thought, EDIT], codec, max_thought_tokens=20, max_turns=1)
    trajectory, tokens = result[0], result[0].tokens
    # The draft in the thought was no call, and the thought counts with its answer as the one turn.
    assert trajectory.stop_reason is StopReason.MAX_TURNS, trajectory.error
    assert [(record.name, record.error) for record in trajectory.tool_records] == [("qwen_edit_image", None)]
    assert [turn.finish_reason for turn in trajectory.turns] == ["length", "stop"]
    assert tokens is not None
    first, second = trajectory.turns
    assert first.end - first.start == 20
    between = tokens.response_ids[first.end : second.start]
    assert codec.decode(between) == "\n</think>\n\n"
    assert tokens.mask[first.end : second.start] == [0] * len(between)
    trajectory.check(codec, agent.store.get)
    assert trajectory.messages[2].tool_calls == (
        ToolCall("call_0", "qwen_edit_image", {"image_id": "img_1", "prompt": "brighten"}),
    )


async def test_a_short_thought_does_not_cut_its_answer(codec: ChatCodec) -> None:
    """The limit falls into the answer: the turn goes on where it was, as one turn."""
    answer = f"Short.\n</think>\n\n{ANSWER.replace('img_2', 'img_1')}"
    whole = len(codec.tokenizer(answer, add_special_tokens=False)["input_ids"])
    ids = codec.tokenizer(answer, add_special_tokens=False)["input_ids"]
    head, tail = codec.decode(ids[: whole // 2]), codec.decode(ids[whole // 2 :])
    # A scripted turn ends by itself unless it is cut: the first half is followed by words that the limit cuts off.
    script = [head + tail[:20] + " and more words than fit", tail]
    agent, result = await run(script, codec, max_thought_tokens=whole // 2)
    trajectory = result[0]
    assert trajectory.stop_reason is StopReason.ANSWERED, trajectory.error
    assert [turn.finish_reason for turn in trajectory.turns] == ["stop"]
    assert trajectory.turns[0].text == answer
    trajectory.check(codec, agent.store.get)


async def test_a_limit_of_thoughts_needs_ids_and_an_opened_thought(codec: ChatCodec) -> None:
    plain = ChatCodec(codec.processor, load_template("qwen3.5-no-thinking"))
    for wrong in (None, plain):
        _, result = await run([EDIT], wrong, max_thought_tokens=8)
        assert result[0].stop_reason is StopReason.ERROR
        assert "max_thought_tokens needs a token-exact backend" in str(result[0].error)
