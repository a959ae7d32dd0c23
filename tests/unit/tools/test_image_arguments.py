"""Tools that take and return images: the model sees ids, the function sees images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from PIL import Image, ImageOps

from agentfly.agents import Agent, ImageEditingAgent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.errors import ConfigError, ImageError
from agentfly.images import ImageStore, ImageView
from agentfly.messages import ToolCall
from agentfly.tools import Toolset, tool
from tests.unit.agents.calls import call


@tool
def mirror(image: Image.Image) -> Image.Image:
    """Swap left and right."""
    return ImageOps.mirror(image)


@tool
async def beside(image: Image.Image, other: Image.Image | None = None, gap: int = 0) -> tuple[str, Image.Image]:
    """Set two images side by side.

    Args:
        image: on the left.
        other: on the right.
    """
    right = other or image
    made = Image.new("RGB", (image.width + gap + right.width, image.height))
    made.paste(image, (0, 0))
    made.paste(right, (image.width + gap, 0))
    return "side by side:", made


@tool(looks=True)
def magnify(image: Image.Image) -> Image.Image:
    """Look closely."""
    return image.resize((2 * image.width, 2 * image.height))


def gradient() -> Image.Image:
    return Image.linear_gradient("L").rotate(90).resize((16, 16)).convert("RGB")


def chain(*tools: Any) -> tuple[Toolset, ImageView]:
    agent = Agent("s", backend=ScriptedBackend([]), tools=tools)
    content = [{"type": "image", "image": gradient()}, {"type": "text", "text": "Go."}]
    made = agent.chain({"messages": [{"role": "user", "content": content}]}, "g")
    return made.tools, made.view


def properties(tools: Toolset, name: str) -> Mapping[str, Any]:
    found = tools.get(name)
    assert found is not None
    properties = found.parameters["properties"]
    assert isinstance(properties, Mapping)
    return properties


def test_the_model_sees_ids() -> None:
    tools, _ = chain(mirror, beside)
    assert properties(tools, "mirror") == {"image": {"type": "string", "description": "id of an image"}}
    assert properties(tools, "beside")["other"] == {"type": "string", "description": "on the right."}


async def test_an_image_comes_in_and_a_new_one_goes_out() -> None:
    tools, view = chain(mirror)
    result = await tools.execute(ToolCall("c", "mirror", {"image": "img_1"}))
    assert result.text == "img_2"
    assert result.images == (view.handle("img_2"),)
    assert view.get("img_2").tobytes() == ImageOps.mirror(gradient()).tobytes()
    # The source makes it an edit for credit by turn and for the metrics.
    assert result.data == {"source": view.handle("img_1")}


async def test_words_come_first_and_an_optional_image_may_be_left_out() -> None:
    tools, view = chain(beside)
    result = await tools.execute(ToolCall("c", "beside", {"image": "img_1", "other": None, "gap": 4}))
    assert result.text == "side by side: img_2"
    assert view.get("img_2").size == (36, 16)


async def test_a_tool_that_looks_makes_views() -> None:
    tools, _ = chain(magnify)
    result = await tools.execute(ToolCall("c", "magnify", {"image": "img_1"}))
    assert (result.text, result.data) == ("view_1", {})


async def test_an_unknown_id_is_an_observation() -> None:
    tools, _ = chain(mirror)
    with pytest.raises(ImageError, match="unknown image id 'img_9'"):
        await tools.execute(ToolCall("c", "mirror", {"image": "img_9"}))


async def test_a_tool_without_a_chain_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match="give it to an agent"):
        await Toolset([mirror]).execute(ToolCall("c", "mirror", {"image": "img_1"}))


async def test_methods_take_images_too_and_python_calls_them_plainly() -> None:
    class Mirrors(ImageEditingAgent):
        @tool
        def mirror_it(self, image: Image.Image) -> Image.Image:
            """Swap left and right."""
            return ImageOps.mirror(image)

    text = call("mirror_it", image="img_1") + call("give_answer", final_image_id="img_2")
    agent = Mirrors("s", backend=ScriptedBackend([text]), store=ImageStore())
    assert agent.mirror_it(gradient()).tobytes() == ImageOps.mirror(gradient()).tobytes()
    content = [{"type": "image", "image": gradient()}, {"type": "text", "text": "Mirror it."}]
    (trajectory,) = await agent.run([{"role": "user", "content": content}])
    assert trajectory.answered
    assert trajectory.final_image == trajectory.names["img_2"]


async def test_a_result_in_another_order_is_told_with_the_line_of_the_tool() -> None:
    @tool
    def swapped() -> tuple[Image.Image, str]:
        """Return words after the image."""
        return Image.new("L", (1, 1)), "words"

    with pytest.raises(TypeError, match=rf"'swapped' \({__file__}:\d+\) returned tuple: .* text and then images"):
        await Toolset([swapped]).execute(ToolCall("c", "swapped", {}))
