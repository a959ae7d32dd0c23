"""Each documented block, run with its own arguments: only addresses and words that need weights are exchanged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from agentfly.agents import AgentSettings, ImageEditingAgent, StopReason
from agentfly.agents.llm_backends import AsyncVLLMBackend, AsyncVLLMConfig, ClientBackend, ClientConfig, ScriptedBackend
from agentfly.errors import TemplateError, ToolError
from agentfly.images import ImageLimits
from agentfly.vision.base import EditParams, InpaintParams
from tests.unit.agents.conftest import ChatServer
from tests.unit.agents.test_image_agent.conftest import Recorder, calls
from tests.unit.agents.test_image_agent.image_node import INVERTER
from tests.unit.serving.image_server.running import running

MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"

CONSTRUCTORS = """
import sys
from agentfly.agents import ImageEditingAgent
from agentfly.agents.llm_backends import AsyncVLLMConfig, ClientConfig

agent = ImageEditingAgent(
    model_name_or_path="Qwen/Qwen2.5-VL-3B-Instruct",
    template="qwen2.5-vl-system-tool",
    backend="async_vllm",
    backend_config=AsyncVLLMConfig(pipeline_parallel_size=4, gpu_memory_utilization=0.5),
    streaming="console"
)
agent = ImageEditingAgent(
    model_name_or_path="Qwen/Qwen2.5-VL-3B-Instruct",
    backend="client",
    backend_config=ClientConfig(base_url="http://0.0.0.0:8000/v1"),
    streaming="console"
)
agent = ImageEditingAgent(
    model_name_or_path="gpt-5-mini",
    backend="client",
    backend_config=ClientConfig(base_url="https://api.openai.com/v1", api_key="your-openai-api-key"),
    streaming="console"
)
agent = ImageEditingAgent(
    model_name_or_path="Qwen/Qwen2.5-VL-3B-Instruct",
    client_nodes=[("localhost", 8000), ("localhost", 8001)],
    max_requests_per_minute=50,
    timeout=600
)
backend_config = AsyncVLLMConfig(
    pipeline_parallel_size=4, gpu_memory_utilization=0.5, max_model_len=8192, trust_remote_code=True, dtype="auto"
)
backend_config = ClientConfig(base_url="http://0.0.0.0:8000/v1", timeout=60.0)
backend_config = ClientConfig(base_url="https://api.openai.com/v1", api_key="your-api-key", timeout=60.0)
print([name for name in ("vllm", "torch", "transformers", "openai") if name in sys.modules])
"""


@pytest.mark.slow
def test_every_constructor_is_made_without_a_server_and_without_an_engine() -> None:
    done = subprocess.run([sys.executable, "-c", CONSTRUCTORS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", "libraries are loaded with the first turn"


def test_the_backends_are_those_that_were_asked_for() -> None:
    config = AsyncVLLMConfig(pipeline_parallel_size=4, gpu_memory_utilization=0.5)
    agent = ImageEditingAgent(MODEL, template="qwen2.5-vl-system-tool", backend="async_vllm", backend_config=config)
    assert isinstance(agent.backend, AsyncVLLMBackend)
    assert config.given() == {"pipeline_parallel_size": 4, "gpu_memory_utilization": 0.5}
    by_dict = ImageEditingAgent(MODEL, backend="client", backend_config={"base_url": "http://0.0.0.0:8000/v1"})
    assert isinstance(by_dict.backend, ClientBackend)
    assert isinstance(ImageEditingAgent(MODEL).backend, AsyncVLLMBackend), "the default"


@pytest.mark.slow
async def test_client_nodes_do_the_editing_and_what_they_cannot_do_is_done_here(photo: Image.Image) -> None:
    with running(**INVERTER) as one, running(**INVERTER) as other:
        nodes = [("127.0.0.1", int(server.url.rsplit(":", 1)[1])) for server in (one, other)]
        agent = ImageEditingAgent(
            model_name_or_path="Qwen/Qwen2.5-VL-3B-Instruct",
            backend=ScriptedBackend([]),
            client_nodes=nodes,
            max_requests_per_minute=50,
            timeout=600,
        )
        image_id = agent._store_image(photo)
        edited = await agent.qwen_edit_image_tool(image_id=image_id, prompt="anything", seed=3)
        assert edited.engine.startswith("remote")
        assert agent._get_image(edited.images[0]).tobytes() == ImageOps.invert(photo).tobytes()
        found = await agent.detect_objects_tool(image_id=image_id, text_prompt="red circle")
        assert found.engine == "classical"
        with pytest.raises(ToolError, match="this cannot be done: try another prompt"):
            await agent.qwen_edit_image_tool(image_id=image_id, prompt="refuse")
        await agent.close()


async def test_a_checkpoint_that_is_not_there_is_told_with_the_first_turn(tmp_path: Path) -> None:
    agent = ImageEditingAgent(str(tmp_path / "nothing"), template="qwen2.5-vl-system-tool", backend="async_vllm")
    result = await agent.run([{"role": "user", "content": "hello"}], num_chains=2)
    assert [trajectory.stop_reason for trajectory in result] == [StopReason.BACKEND_ERROR] * 2
    assert "there is no such folder: give a folder with a model" in str(result[0].error)
    with pytest.raises(TemplateError, match=r"Did you mean 'qwen2\.5-vl-system-tool'"):
        ImageEditingAgent(MODEL, template="qwen2.5-vl-system-tols")


def image_from_this_machine() -> AgentSettings:
    """Images of a server on this machine are refused unless one says otherwise."""
    return AgentSettings(
        system_prompt=ImageEditingAgent.default_system_prompt, image_limits=ImageLimits(allow_private_hosts=True)
    )


def say_a_replacement(server: ChatServer) -> None:
    server.say(
        calls(("detect_objects", {"image_id": "img_1", "text_prompt": "red circle", "auto_mask_dilate": 3})),
        calls(("inpaint_image", {"image_id": "img_1", "mask_id": "mask_1", "prompt": "a yellow square"})),
        calls(("give_answer", {"final_image_id": "img_2", "description": "The circle is a square now."})),
    )


async def test_the_run_and_the_messages(
    server: ChatServer, photo_url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    say_a_replacement(server)
    agent = ImageEditingAgent(
        model_name_or_path="Qwen/Qwen2.5-VL-3B-Instruct",
        backend="client",
        backend_config=ClientConfig(
            base_url=server.url,
        ),
        streaming="console",
        settings=image_from_this_machine(),
    )
    messages_list = [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": photo_url},
                        {"type": "text", "text": "Find what animal is in the image, then inpaint it with a cat."},
                    ],
                }
            ]
        }
    ]
    await agent.run(messages=messages_list, max_turns=4, num_chains=1, enable_streaming=True)
    streamed = capsys.readouterr().out
    assert "inpaint_image" in streamed
    agent.print_messages(index=0)
    printed = capsys.readouterr().out
    assert "Find what animal is in the image" in printed
    assert "mask_1: red circle" in printed

    messages = agent.get_messages()
    seen: list[tuple[str, Any]] = []
    for message in messages[0]["messages"]:
        role = message["role"]
        content = message["content"]
        seen.append((role, content))
    assert [role for role, _ in seen] == ["system", "user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert [part["type"] for part in seen[1][1]] == ["text", "image", "text"]
    assert [part["type"] for part in seen[3][1]] == ["text", "image"]

    (trajectory,) = agent.trajectories
    assert trajectory.answer == "The circle is a square now."
    assert agent.rewards == [None]
    assert trajectory.final_image is not None
    assert agent.save_image(trajectory.final_image, tmp_path / "output_image.jpg").stat().st_size > 0
    await agent.close()


async def test_the_tools_awaited_directly_with_custom_parameters(recorder: Recorder) -> None:
    agent = ImageEditingAgent(MODEL, backend=ScriptedBackend([]), engines=recorder.engines())
    image_id = agent._store_image(Image.new("RGB", (64, 64), "white"))
    detection_result = await agent.detect_objects_tool(
        image_id=image_id,
        text_prompt="a dog",
        box_threshold=0.5,
        text_threshold=0.3,
        auto_mask_dilate=2,
        auto_mask_feather=3,
    )
    await agent.inpaint_image_tool(
        image_id=image_id,
        mask_id=detection_result.images[0],
        prompt="a beautiful cat",
        guidance_scale=7.5,
        num_inference_steps=50,
        strength=0.8,
        seed=42,
    )
    edit_result = await agent.qwen_edit_image_tool(
        image_id=image_id,
        prompt="Change the background to a sunset",
        negative_prompt="blurry, low quality",
        true_cfg_scale=6.0,
        num_inference_steps=75,
        seed=123,
    )
    assert edit_result.ids == ("img_3",)
    detect, inpaint, edit = recorder.seen
    assert detect == ("detect", "a dog", 0.5, 0.3)
    assert inpaint[2:] == ("a beautiful cat", InpaintParams(None, 7.5, 50, 0.8, 42))
    assert edit == (
        "edit",
        "Change the background to a sunset",
        EditParams("blurry, low quality", 6.0, 75, 123),
    )


def test_the_management_of_images(photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    agent = ImageEditingAgent(MODEL, backend="client", backend_config=ClientConfig(base_url="http://0.0.0.0:8000/v1"))
    image_id = agent._store_image(photo)
    image = agent._get_image(image_id)
    assert image.tobytes() == photo.tobytes()
    agent.save_image(image_id, "output_image.jpg")
    with Image.open("output_image.jpg") as file:
        assert (file.format, file.size) == ("JPEG", photo.size)


async def test_the_complete_example(server: ChatServer, photo_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        agent = ImageEditingAgent(
            model_name_or_path="Qwen/Qwen2.5-VL-3B-Instruct",
            backend="client",
            backend_config=ClientConfig(
                base_url=server.url,
            ),
            streaming="console",
            settings=image_from_this_machine(),
        )
        content = [
            {"type": "image", "image": photo_url},
            {"type": "text", "text": "Find what animal is in the image, then inpaint it with a cat."},
        ]
        messages_list = [{"messages": [{"role": "user", "content": content}]}]
        await agent.run(messages=messages_list, max_turns=4, num_chains=1, enable_streaming=True)
        agent.print_messages(index=0)

    say_a_replacement(server)
    await main()
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("a yellow square") == 2, "once as it came, once printed"
    assert server.bodies[0]["model"] == MODEL


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="session")
async def test_the_complete_example_on_vllm(
    vllm_backend: AsyncVLLMBackend, photo: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first option of the example; an untrained policy says what comes to its mind, and the run ends in order."""
    agent = ImageEditingAgent(model_name_or_path="tiny", backend=vllm_backend, streaming="console")
    content = [{"type": "image", "image": photo.resize((168, 168))}, {"type": "text", "text": "Inpaint it with a cat."}]
    await agent.run(
        messages=[{"messages": [{"role": "user", "content": content}]}],
        max_turns=4,
        num_chains=1,
        enable_streaming=True,
    )
    agent.print_messages(index=0)
    (trajectory,) = agent.trajectories
    assert trajectory.error is None
    trajectory.check(vllm_backend.codec, agent.store.get)
    assert "Inpaint it with a cat." in capsys.readouterr().out
