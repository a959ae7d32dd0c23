"""The agent on each backend: a real HTTP endpoint, and a real vLLM engine with a tiny checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent, RolloutLimits, StopReason
from agentfly.agents.llm_backends import AsyncVLLMBackend, ClientConfig, SamplingParams
from tests.unit.agents.conftest import ChatServer, delta, stream
from tests.unit.agents.test_image_agent.conftest import calls


def images_with_words(body: dict[str, Any]) -> list[str]:
    """The text right before each image of a request."""
    found = []
    for message in body["messages"]:
        parts = message["content"] if isinstance(message["content"], list) else []
        for before, part in zip([None, *parts], parts, strict=False):
            if part["type"] == "image_url":
                assert part["image_url"]["url"].startswith("data:image/png;base64,")
                assert before is not None
                assert before["type"] == "text"
                found.append(before["text"])
    return found


async def test_image_agent_client(server: ChatServer, photo: Image.Image, capsys: pytest.CaptureFixture[str]) -> None:
    """Native calls over the wire, streamed; two calls in one turn; every image goes to the model with its id."""
    server.say(
        calls(
            ("detect_objects", {"image_id": "img_1", "text_prompt": "red circle", "auto_mask_dilate": 4}),
            ("qwen_edit_image", {"image_id": "img_1", "prompt": "darken", "seed": 3}),
        ),
        calls(("inpaint_image", {"image_id": "img_2", "mask_id": "mask_1", "prompt": "a blue star"})),
        calls(("give_answer", {"final_image_id": "img_3", "description": "A star in the dark."})),
    )
    agent = ImageEditingAgent(
        model_name_or_path="Qwen/Qwen2.5-VL-3B-Instruct",
        backend="client",
        backend_config=ClientConfig(base_url=server.url, timeout=60.0),
        streaming="console",
    )
    content = [{"type": "image", "image": photo}, {"type": "text", "text": "Darken it; make the circle a star."}]
    result = await agent.run([{"role": "user", "content": content}], max_turns=4, enable_streaming=True)
    await agent.close()
    (trajectory,) = result
    assert (trajectory.stop_reason, trajectory.answer) == (StopReason.ANSWERED, "A star in the dark.")
    assert [record.error for record in trajectory.tool_records] == [None] * 4
    assert trajectory.final_image == trajectory.names["img_3"]
    assert trajectory.tokens is None, "a server that returns no ids cannot be exact to the token"
    first, *_, last = server.bodies
    assert [tool["function"]["name"] for tool in first["tools"]] == [
        "detect_objects",
        "inpaint_image",
        "auto_inpaint_image",
        "qwen_edit_image",
        "give_answer",
    ]
    assert images_with_words(first) == ["img_1: "]
    told = " ".join(message["content"] for message in last["messages"] if message["role"] == "tool")
    assert all(name in told for name in ("mask_1", "img_2", "img_3"))
    assert len(images_with_words(last)) == 4
    shown = capsys.readouterr().out
    assert "On it." in shown
    assert "inpaint_image" in shown


async def test_the_model_reads_why_a_tool_refused(server: ChatServer, photo: Image.Image) -> None:
    server.say(
        calls(("detect_objects", {"image_id": "img_3", "text_prompt": "x"})),
        stream(delta(content="I give up."), delta("stop")),
    )
    agent = ImageEditingAgent(
        "m", backend="client", backend_config={"base_url": server.url, "max_new_tokens": 77}, streaming="console"
    )
    content = [{"type": "image", "image": photo}, {"type": "text", "text": "Find it."}]
    (trajectory,) = await agent.run([{"role": "user", "content": content}], enable_streaming=True)
    await agent.close()
    assert trajectory.stop_reason is StopReason.NO_TOOL_CALL
    assert server.bodies[1]["messages"][-1]["content"].startswith(
        "Error: unknown image id 'img_3'. Did you mean 'img_1'?"
    )
    assert server.bodies[0]["max_completion_tokens"] == 77


CALL = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "(brighten|darken|blur)"}}'


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="session")
async def test_image_agent_async_vllm(vllm_backend: AsyncVLLMBackend, photo: Image.Image) -> None:
    """A real engine: an untrained policy that a grammar allows nothing but calls, exact to the token."""
    from vllm.sampling_params import StructuredOutputsParams

    regex = CALL.replace("{", r"\{").replace("}", r"\}") + "</tool_call>"
    agent = ImageEditingAgent(
        model_name_or_path="tiny",
        backend=vllm_backend,
        streaming="console",
        settings=AgentSettings(
            system_prompt=None,
            limits=RolloutLimits(max_tokens_per_turn=150, max_context_tokens=1000),
            sampling=SamplingParams(seed=1, extra={"structured_outputs": StructuredOutputsParams(regex=regex)}),
        ),
    )
    content = [{"type": "image", "image": photo.resize((168, 168))}, {"type": "text", "text": "Change it."}]
    conversation = {"id": "fixed", "messages": [{"role": "user", "content": content}]}
    (trajectory,) = await agent.run(messages=[conversation], max_turns=2, num_chains=1, enable_streaming=True)
    assert (trajectory.stop_reason, trajectory.error) == (StopReason.MAX_TURNS, None)
    assert [record.error for record in trajectory.tool_records] == [None, None]
    assert trajectory.final_image is not None
    trajectory.check(vllm_backend.codec, agent.store.get)
