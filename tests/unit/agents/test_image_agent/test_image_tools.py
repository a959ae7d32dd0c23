"""The tools awaited directly, as documented: every parameter arrives, and every result can be worked on."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.agents import ImageEditingAgent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.errors import ImageError, ToolError
from agentfly.tools import ImageTools, Tool, ToolResult, Toolset, tool
from agentfly.vision.base import EditParams, InpaintParams
from tests.unit.agents.test_image_agent.conftest import Recorder, png


@pytest.fixture
def agent() -> ImageEditingAgent:
    """With the embedded engines."""
    return ImageEditingAgent("scripted", backend=ScriptedBackend([]))


@pytest.fixture
def recorded(recorder: Recorder) -> ImageEditingAgent:
    return ImageEditingAgent("scripted", backend=ScriptedBackend([]), engines=recorder.engines())


async def test_detect_inpaint_and_save_with_the_embedded_engines(
    agent: ImageEditingAgent, photo: Image.Image, tmp_path: Path
) -> None:
    image_id = agent._store_image(photo)
    found = await agent.detect_objects_tool(
        image_id=image_id,
        text_prompt="a red circle",
        box_threshold=0.5,
        text_threshold=0.3,
        auto_mask_dilate=2,
        auto_mask_feather=3,
    )
    (mask_id,) = found.ids
    assert agent.images.handle(mask_id) == found.images[0]
    assert mask_id == "mask_1"
    assert found.text.startswith("mask_1: red circle ")
    mask = np.asarray(agent._get_image(mask_id))
    assert mask[80, 180] == 255
    assert 0 < mask[80, 149] < 255
    painted = await agent.inpaint_image_tool(
        image_id=image_id,
        mask_id=mask_id,
        prompt="a blue star",
        guidance_scale=7.5,
        num_inference_steps=50,
        strength=0.8,
        seed=42,
    )
    assert painted.engine == "classical"
    parameters = {"guidance_scale": 7.5, "num_inference_steps": 50, "strength": 0.8, "seed": 42}
    assert painted.data == {**parameters, "source": agent.images.handle(image_id)}
    edited = await agent.qwen_edit_image_tool(
        image_id=painted.ids[0],
        prompt="Brighten the image",
        negative_prompt="blurry, low quality",
        true_cfg_scale=6.0,
        num_inference_steps=75,
        seed=123,
    )
    assert edited.ids == ("img_3",)
    assert edited.data["true_cfg_scale"] == 6.0
    saved = agent.save_image(edited.ids[0], tmp_path / "out" / "output_image.jpg")
    with Image.open(saved) as file:
        assert (file.format, file.size) == ("JPEG", photo.size)
    before, after = (np.asarray(agent._get_image(i), int) for i in (image_id, painted.images[0]))
    changed = (before != after).any(axis=-1)
    assert changed[80, 180]
    assert not changed[:, :140].any()


async def test_the_mask_of_auto_inpaint_can_be_used_again(agent: ImageEditingAgent, photo: Image.Image) -> None:
    image_id = agent._store_image(photo)
    removed = await agent.auto_inpaint_image_tool(
        image_id=image_id, detect_prompt="red circle", prompt="", auto_mask_dilate=4
    )
    assert removed.ids == ("img_2",)
    again = await agent.inpaint_image_tool(image_id=image_id, mask_id=removed.data["mask"], prompt="")
    assert again.ids == ("img_2",), "the same mask removes the same way, and equal images are one image"


async def test_every_parameter_reaches_its_engine(recorded: ImageEditingAgent, recorder: Recorder) -> None:
    image_id = recorded._store_image(Image.new("RGB", (64, 48), "red"))
    paint: dict[str, Any] = {
        "negative_prompt": "n",
        "guidance_scale": 7.5,
        "num_inference_steps": 50,
        "strength": 0.8,
        "seed": 42,
    }
    find: dict[str, Any] = {"box_threshold": 0.5, "text_threshold": 0.3, "auto_mask_dilate": 2, "auto_mask_feather": 0}
    await recorded.auto_inpaint_image_tool(image_id=image_id, detect_prompt="a dog", prompt="a cat", **find, **paint)
    detect, inpaint = recorder.seen
    assert detect == ("detect", "a dog", 0.5, 0.3)
    assert np.asarray(inpaint[1])[30, 18] == 255, "the mask of 20 to 40 grew by 2"
    assert np.asarray(inpaint[1])[30, 17] == 0
    assert inpaint[2:] == ("a cat", InpaintParams("n", 7.5, 50, 0.8, 42))
    await recorded.qwen_edit_image_tool(
        image_id, "sunset", negative_prompt="n", true_cfg_scale=6.0, num_inference_steps=75, seed=123
    )
    assert recorder.seen[-1] == ("edit", "sunset", EditParams("n", 6.0, 75, 123))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("detect_objects", {"text_prompt": "x", "box_threshold": 1.5}, "box_threshold must be <= 1"),
        ("detect_objects", {"text_prompt": "x", "box_treshold": 0.5}, r"did you mean box_threshold\?"),
        ("detect_objects", {"text_prompt": "x", "auto_mask_dilate": -1}, "auto_mask_dilate must be >= 0"),
        ("detect_objects", {}, "missing text_prompt"),
        ("inpaint_image", {"mask_id": "img_1", "prompt": "x", "strength": 0}, "strength must be > 0"),
        ("inpaint_image", {"mask_id": "img_1", "prompt": "x", "guidance": 3}, r"did you mean guidance_scale\?"),
        ("inpaint_image", {"mask_id": "mask_9", "prompt": "x"}, "unknown image id 'mask_9'.*img_1"),
        ("auto_inpaint_image", {"detect_prompt": "x", "prompt": "y", "seed": -3}, "seed must be >= 0"),
        ("qwen_edit_image", {"prompt": "x", "num_inference_steps": 0}, "num_inference_steps must be >= 1"),
        ("qwen_edit_image", {"prompt": "x", "true_cfg": 3}, r"did you mean true_cfg_scale\?"),
        ("qwen_edit_image", {"prompt": 3 + 4j}, "prompt must be a valid string"),
    ],
)
async def test_a_direct_call_is_checked_as_a_call_of_the_model_is(
    recorded: ImageEditingAgent, recorder: Recorder, name: str, arguments: dict[str, Any], words: str
) -> None:
    image_id = recorded._store_image(Image.new("RGB", (64, 48), "red"))
    with pytest.raises(ToolError, match=words):
        await getattr(recorded, f"{name}_tool")(image_id=image_id, **arguments)
    assert not recorder.seen


async def test_too_many_arguments_are_refused_as_python_does(recorded: ImageEditingAgent) -> None:
    with pytest.raises(TypeError, match="multiple values"):
        await recorded.qwen_edit_image_tool("img_1", "x", image_id="img_1")  # type: ignore[misc]  # given twice
    with pytest.raises(TypeError, match="too many"):
        await recorded.give_answer_tool("img_1", "x", "y")  # type: ignore[call-arg]


async def test_nothing_found_says_what_to_try(agent: ImageEditingAgent, photo: Image.Image) -> None:
    image_id = agent._store_image(photo)
    with pytest.raises(ToolError, match=r"best score 0\.\d+\): lower box_threshold or use other words"):
        await agent.detect_objects_tool(image_id=image_id, text_prompt="red circle", box_threshold=0.99)


async def test_a_mask_of_another_image_says_what_to_do(agent: ImageEditingAgent, photo: Image.Image) -> None:
    image_id, other = agent._store_image(photo), agent._store_image(photo.resize((120, 80)))
    found = await agent.detect_objects_tool(image_id=image_id, text_prompt="red circle")
    with pytest.raises(ToolError, match="mask_1 is 240x160 but img_2 is 120x80: detect on img_2"):
        await agent.inpaint_image_tool(image_id=other, mask_id=found.ids[0], prompt="")


async def test_a_wish_beyond_the_embedded_engines_is_refused_and_never_faked(
    agent: ImageEditingAgent, photo: Image.Image
) -> None:
    image_id = agent._store_image(photo)
    with pytest.raises(ToolError, match="needs a model backend"):
        await agent.qwen_edit_image_tool(image_id=image_id, prompt="Change the background to a sunset")
    assert list(agent.images) == ["img_1"]


async def test_a_person_goes_on_where_a_run_ended(photo: Image.Image) -> None:
    call = (
        '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "brighten"}}</tool_call>'
    )
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend([call, "done"]))
    content = [{"type": "image", "image": photo}, {"type": "text", "text": "Brighter."}]
    result = await agent.run([{"role": "user", "content": content}])
    final = result[0].final_image
    assert final is not None
    further = await agent.qwen_edit_image_tool(image_id=final, prompt="blur")
    assert further.ids == ("img_2",)
    answer = await agent.give_answer_tool(final_image_id="img_2", description="Blurred.")
    assert (answer.text, answer.ids, answer.final) == ("Blurred.", ("img_2",), True)
    with pytest.raises(ImageError, match=r"unknown image id 'img_7'.*go by their handles: result\[0\]\.final_image"):
        agent._get_image("img_7")


def _argument_names(known: Tool) -> list[str]:
    properties = known.parameters["properties"]
    assert isinstance(properties, dict)
    return list(properties)


def test_the_page_on_the_agent_lists_every_tool_and_argument() -> None:
    page = (Path(__file__).resolve().parents[4] / "docs" / "agent.md").read_text(encoding="utf-8")
    for known in Toolset.of(ImageTools.__new__(ImageTools)):
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{known.name}` |"))
        assert re.findall(r"`(\w+)`", row)[1:] == _argument_names(known)


async def test_a_tool_of_a_subclass_uses_the_tools_on_the_images_of_its_chain(photo: Image.Image) -> None:
    class Own(ImageEditingAgent):
        @tool
        async def darken_twice(self, image_id: str) -> ToolResult:
            """Darken an image, and once more."""
            once = await self.qwen_edit_image_tool(image_id=image_id, prompt="darken")
            return await self.qwen_edit_image_tool(image_id=once.ids[0], prompt="darken")

    call = '<tool_call>{"name": "darken_twice", "arguments": {"image_id": "img_1"}}</tool_call>'
    agent = Own("scripted", backend=ScriptedBackend([call, "done"]))
    content = [{"type": "image", "image": photo}, {"type": "text", "text": "Darker."}]
    for trajectory in await agent.run([{"role": "user", "content": content}], num_chains=2):
        assert trajectory.tool_records[0].error is None
        assert trajectory.final_image == trajectory.names["img_3"]
    assert not list(agent.images)


def test_the_methods_are_documented_as_the_tools_are() -> None:
    for known in Toolset.of(ImageTools.__new__(ImageTools)):
        method = getattr(ImageEditingAgent, f"{known.name}_tool")
        assert list(inspect.signature(method).parameters)[1:] == _argument_names(known)
        assert known.description in " ".join((inspect.getdoc(method) or "").split())
    assert ImageEditingAgent.qwen_image_edit_tool is ImageEditingAgent.qwen_edit_image_tool


def test_the_tools_of_a_person_are_not_the_tools_of_a_model(agent: ImageEditingAgent) -> None:
    assert len(Toolset.of(agent)) == 0


def test_images_are_stored_found_and_saved(agent: ImageEditingAgent, photo: Image.Image, tmp_path: Path) -> None:
    image_id = agent._store_image(photo)
    assert agent._store_image(png(photo)) == image_id, "equal images are one image, however they come"
    assert agent._get_image(image_id).tobytes() == photo.tobytes()
    agent._get_image(image_id).paste("black", (0, 0, 9, 9))
    assert agent._get_image(image_id).tobytes() == photo.tobytes(), "a caller's copy is the caller's"
    for name in ("a.png", "deep/er/a.jpg", "a.webp"):
        with Image.open(agent.save_image(image_id, tmp_path / name)) as file:
            assert file.size == photo.size
    clear = agent._store_image(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    with Image.open(agent.save_image(clear, str(tmp_path / "clear.jpg"))) as file:
        assert file.getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ImageError, match=r"suffix '.xyz': images are saved as \.png"):
        agent.save_image(image_id, tmp_path / "a.xyz")
