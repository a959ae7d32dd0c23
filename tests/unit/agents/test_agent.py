"""What people pass to an agent, and what they get back."""

from __future__ import annotations

import base64
import copy
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent
from agentfly.agents.llm_backends import AsyncVLLMConfig, ClientConfig, GenerationRequest, ScriptedBackend
from agentfly.agents.policy_config import PolicyConfig
from agentfly.errors import ConfigError, ImageError
from tests.unit.hostile import EVERYTHING, HOSTILE, assert_tame

EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "darken"}}</tool_call>'


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["pil", "bytes", "path", "data uri", "image_url", "row"])
async def test_images_come_in_many_forms_and_are_never_changed(form: str, image: Image.Image, tmp_path: Path) -> None:
    data = png(image)
    (tmp_path / "p.png").write_bytes(data)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    parts: dict[str, dict[str, Any]] = {
        "pil": {"type": "image", "image": image},
        "bytes": {"type": "image", "image": data},
        "path": {"type": "image", "image": str(tmp_path / "p.png")},
        "data uri": {"type": "image", "image": uri},
        "image_url": {"type": "image_url", "image_url": {"url": uri}},
        "row": {"type": "image", "image": {"bytes": data, "path": None}},
    }
    messages = [
        {"messages": [{"role": "user", "content": [parts[form], {"type": "text", "text": "Darker."}]}], "source": "x"}
    ]
    before = copy.deepcopy(messages)
    agent = ImageEditingAgent("s", backend=ScriptedBackend([EDIT, "done"]))
    result = await agent.run(messages, num_chains=1)
    assert messages == before
    assert result[0].metadata == {"source": "x"}
    assert agent.store.get(result[0].images[0]).tobytes() == image.tobytes()
    assert "img_1: " in result[0].messages[1].text
    assert result[0].tool_records[0].error is None


async def test_chains_of_one_prompt_share_a_group_and_nothing_else(image: Image.Image) -> None:
    def script(request: GenerationRequest) -> str:
        return EDIT if request.session_id.endswith("-0") and len(request.messages) == 2 else "done"

    agent = ImageEditingAgent("s", backend=ScriptedBackend(script))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Darker."}]
    first, second = await agent.run([{"role": "user", "content": content}], num_chains=2)
    assert first.group_id == second.group_id
    assert set(first.names) == {"img_1", "img_2"}
    assert set(second.names) == {"img_1"}


async def test_a_conversation_without_images_runs() -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend([EDIT, "sorry"]))
    result = await agent.run([{"role": "user", "content": "Edit my image."}])
    assert "there is no image" in result[0].messages[3].text


async def test_messages_can_be_read_and_printed(image: Image.Image, capsys: pytest.CaptureFixture[str]) -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend([EDIT, "done"]))
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Darker."}]
    await agent.run(messages=[{"role": "user", "content": content}], max_turns=4, num_chains=1)
    roles = [message["role"] for message in agent.get_messages()[0]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    agent.print_messages(index=0)
    assert "qwen_edit_image" in capsys.readouterr().out
    assert agent.rewards == [None]
    with pytest.raises(ConfigError, match="there is no chain 1"):
        agent.print_messages(index=1)


@pytest.mark.parametrize("hostile", [*HOSTILE, EVERYTHING])
async def test_messages_are_printed_whatever_the_model_wrote(
    hostile: str, image: Image.Image, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "600")
    hostile = hostile.encode("utf-8", "replace").decode()  # half a surrogate pair ends a chain
    call = json.dumps({"name": "nothing", "arguments": {"of": hostile}})
    agent = ImageEditingAgent("s", backend=ScriptedBackend([f"{hostile} <tool_call>{call}</tool_call>", hostile]))
    await agent.run([{"role": "user", "content": [{"type": "text", "text": hostile}]}])
    agent.print_messages()
    shown = capsys.readouterr().out
    assert "→ nothing({'of':" in shown
    if hostile.startswith(HOSTILE[0]) and hostile != HOSTILE[0]:
        assert_tame(shown)


async def test_tools_can_be_awaited_directly(image: Image.Image, tmp_path: Path) -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend([]))
    image_id = agent._store_image(image)
    result = await agent.qwen_edit_image_tool(
        image_id=image_id, prompt="brighten", negative_prompt="blurry", true_cfg_scale=6.0, seed=123
    )
    assert result.engine == "classical"
    saved = agent.save_image(result.images[0], tmp_path / "out.jpg")
    with Image.open(saved) as file:
        assert file.size == image.size
    with pytest.raises(ImageError, match="img_9"):
        agent._get_image("img_9")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "vllm_async"}, "async_vllm"),
        ({"backend": "client", "backend_config": AsyncVLLMConfig()}, "takes a ClientConfig"),
        ({"backend": "client", "backend_config": {"base_uri": "x"}}, "base_url"),
        ({"backend": ScriptedBackend([]), "streaming": "html"}, "console"),
        ({"backend": ScriptedBackend([]), "streamin": "console"}, "Did you mean 'streaming'"),
        ({"backend": ScriptedBackend([]), "client_node": []}, "Did you mean 'client_nodes'"),
        ({"backend": ScriptedBackend([]), "tools": [len]}, "mark it with @tool"),
        ({"backend": ScriptedBackend([]), "reward": 3}, "reward is a function"),
    ],
)
def test_wrong_arguments_name_the_right_ones(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageEditingAgent("model", **arguments)


def test_a_client_agent_needs_no_server_to_be_made() -> None:
    agent = ImageEditingAgent(
        model_name_or_path="Qwen/Qwen2.5-VL-3B-Instruct",
        backend="client",
        backend_config=ClientConfig(base_url="http://0.0.0.0:8000/v1"),
        streaming="console",
    )
    assert agent.backend.codec is None


@pytest.mark.parametrize(
    "messages",
    ["text", None, [], [3], [[]], {"messages": "x"}, [{"content": "x"}], [{"role": "robot", "content": "x"}]],
)
async def test_what_is_no_conversation_is_refused(messages: Any) -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend([]))
    with pytest.raises(ConfigError):
        await agent.run(messages)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_chain": 2}, "Did you mean 'num_chains'"),
        ({"num_chains": 0}, "num_chains=0: a whole number from 1"),
        ({"max_turns": 1.5}, r"max_turns=1\.5"),
        ({"enable_streaming": True}, 'streaming="console"'),
    ],
)
async def test_wrong_arguments_of_a_run_are_refused(arguments: dict[str, Any], message: str) -> None:
    agent = ImageEditingAgent("s", backend=ScriptedBackend(["done"]))
    with pytest.raises(ConfigError, match=message):
        await agent.run([{"role": "user", "content": "x"}], **arguments)


async def test_the_systems_message_of_the_user_stays(image: Image.Image) -> None:
    settings = AgentSettings(system_prompt="ours")
    agent = ImageEditingAgent("s", backend=ScriptedBackend(["done"]), settings=settings)
    result = await agent.run([{"role": "system", "content": "theirs"}, {"role": "user", "content": "x"}])
    assert [m.text for m in result[0].messages if m.role == "system"] == ["theirs"]


def test_a_card_is_read_back_and_a_broken_one_is_named(tmp_path: Path) -> None:
    policy = PolicyConfig(system_prompt=None, max_turns=3, max_tokens_per_turn=40)
    policy.write(tmp_path)
    assert PolicyConfig.read(str(tmp_path)) == policy
    assert PolicyConfig.read(str(tmp_path / "nowhere")) == PolicyConfig()
    (tmp_path / "agentfly.json").write_text('{"turns": 3}')
    with pytest.raises(ConfigError, match=r"agentfly\.json is not valid"):
        PolicyConfig.read(str(tmp_path))


@pytest.mark.slow
def test_the_agent_imports_without_heavy_libraries() -> None:
    code = (
        "import sys; from agentfly.agents import ImageEditingAgent; "
        "print([m for m in ('torch', 'vllm', 'verl', 'ray', 'transformers', 'diffusers', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
