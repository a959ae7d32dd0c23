"""The image tools: what reaches the engines, what the model reads, and what it is told when something is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.errors import EngineUnavailable, ToolError
from agentfly.images import ImageStore, ImageView
from agentfly.messages import ToolCall
from agentfly.tools import ImageTools, ToolResult, Toolset
from agentfly.vision.base import Detection, Detections, EditParams, Engines, InpaintParams


def disc(x: int) -> Image.Image:
    mask = Image.new("L", (64, 48))
    mask.paste(255, (x, 20, x + 4, 24))
    return mask


@dataclass
class Fake:
    """Engines that keep what they are given; images come out in one colour."""

    found: Sequence[Detection] = ()
    colour: str | None = "blue"
    name: str = "fake"
    seen: list[tuple[Any, ...]] = field(default_factory=list)

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Sequence[Detection]:
        self.seen.append((prompt, box_threshold, text_threshold))
        return self.found

    async def inpaint(self, image: Image.Image, mask: Image.Image, prompt: str, params: InpaintParams) -> Image.Image:
        self.seen.append((mask, prompt, params))
        return self._painted(image)

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        self.seen.append((instruction, params))
        if instruction == "fly":
            raise EngineUnavailable("needs a model backend: fly")
        return self._painted(image)

    def _painted(self, image: Image.Image) -> Image.Image:
        return image if self.colour is None else Image.new("RGB", image.size, self.colour)


TWO = (
    Detection("red circle", 0.871, (10, 20, 14, 24), disc(10)),
    Detection("red circle", 0.5, (40, 20, 44, 24), disc(40)),
)


class Desk:
    """One chain with a red image `img_1`."""

    def __init__(self, fake: Fake, *, draws_boxes: bool = False) -> None:
        self.fake = fake
        self.view = ImageView(ImageStore())
        self.view.add(Image.new("RGB", (64, 48), "red"))
        self.tools = Toolset.of(ImageTools(self.view, Engines(fake, fake, fake, draws_boxes=draws_boxes)))

    async def call(self, name: str, **arguments: Any) -> ToolResult:
        return await self.tools.execute(ToolCall("c", name, arguments))


def area(mask: Image.Image) -> int:
    return int((np.asarray(mask) > 127).sum())


def test_the_model_sees_five_tools() -> None:
    assert [tool.name for tool in Desk(Fake()).tools] == [
        "detect_objects",
        "inpaint_image",
        "auto_inpaint_image",
        "qwen_edit_image",
        "give_answer",
    ]
    for schema in Desk(Fake()).tools.schemas():
        for argument in schema["function"]["parameters"]["properties"].values():
            assert argument["description"]


async def test_detection_stores_the_union_and_lists_what_it_found() -> None:
    desk = Desk(Fake(TWO))
    result = await desk.call("detect_objects", image_id="img_1", text_prompt="circle", box_threshold="0.4")
    assert result.text == "mask_1: red circle 0.87 [10, 20, 14, 24], red circle 0.50 [40, 20, 44, 24]"
    assert result.images == (desk.view.handle("mask_1"),)
    assert result.engine == "fake"
    assert result.data["objects"][0] == {"label": "red circle", "score": 0.871, "box": [10, 20, 14, 24]}
    assert desk.fake.seen == [("circle", 0.4, 0.25)]
    assert area(desk.view.get("mask_1")) == 32


async def test_engines_that_draw_boxes_show_them_in_an_image_of_its_own_name() -> None:
    desk = Desk(Fake(TWO), draws_boxes=True)
    result = await desk.call("detect_objects", image_id="img_1", text_prompt="circle")
    assert result.text.endswith("; drawn in boxes_1")
    assert result.images == (desk.view.handle("mask_1"), desk.view.handle("boxes_1"))
    assert desk.view.get("boxes_1").getpixel((10, 20)) != desk.view.get("img_1").getpixel((10, 20))


async def test_classical_engines_on_an_image_server_show_what_they_show_here() -> None:
    """A policy that was trained without image servers met an image in its observations that it had never seen."""
    desk = Desk(Fake(TWO, name="remote: classical"), draws_boxes=True)
    result = await desk.call("detect_objects", image_id="img_1", text_prompt="circle")
    assert "boxes_1" not in result.text
    assert result.images == (desk.view.handle("mask_1"),)


async def test_long_lists_are_cut_for_the_model_but_kept_in_the_data() -> None:
    desk = Desk(Fake(TWO * 5))
    result = await desk.call("detect_objects", image_id="img_1", text_prompt="circle")
    assert result.text.count("red circle") == 8
    assert result.text.endswith(", 2 more")
    assert len(result.data["objects"]) == 10


async def test_dilation_grows_by_its_radius_and_feathering_softens_the_edge() -> None:
    desk = Desk(Fake(TWO[:1]))
    await desk.call("detect_objects", image_id="img_1", text_prompt="x", auto_mask_dilate=3)
    grown = np.asarray(desk.view.get("mask_1"))
    assert (np.flatnonzero(grown[22])[[0, -1]] == [7, 16]).all()
    assert (np.flatnonzero(grown[:, 12])[[0, -1]] == [17, 26]).all()
    assert grown[17, 7] == 0
    assert set(np.unique(grown)) == {0, 255}
    await desk.call("detect_objects", image_id="img_1", text_prompt="x", auto_mask_feather=2)
    soft = np.asarray(desk.view.get("mask_2"))
    assert 0 < soft[22, 8] < soft[22, 10] < 255


@pytest.mark.parametrize(
    ("found", "best"),
    [((), ""), (Detections(), ""), (Detections(best_rejected=0.834), r" \(best score 0\.83\)")],
)
async def test_finding_nothing_says_what_to_try(found: Sequence[Detection], best: str) -> None:
    desk = Desk(Fake(found))
    expected = rf"^no 'red circle' found with box_threshold 0\.9{best}: lower box_threshold or use other words$"
    with pytest.raises(ToolError, match=expected):
        await desk.call("detect_objects", image_id="img_1", text_prompt="red circle", box_threshold=0.9)
    with pytest.raises(ToolError, match=expected):
        await desk.call(
            "auto_inpaint_image", image_id="img_1", detect_prompt="red circle", prompt="", box_threshold=0.9
        )
    assert list(desk.view) == ["img_1"]


async def test_every_setting_reaches_the_inpainter() -> None:
    desk = Desk(Fake(TWO))
    settings = {
        "negative_prompt": "blur",
        "guidance_scale": 7.5,
        "num_inference_steps": 50,
        "strength": 0.8,
        "seed": 42,
    }
    detect = {"box_threshold": 0.5, "text_threshold": 0.3, "auto_mask_dilate": 2, "auto_mask_feather": 3}
    result = await desk.call(
        "auto_inpaint_image", image_id="img_1", detect_prompt="circle", prompt="cat", **detect, **settings
    )
    assert desk.fake.seen[0] == ("circle", 0.5, 0.3)
    mask, prompt, params = desk.fake.seen[1]
    assert (prompt, params) == ("cat", InpaintParams("blur", 7.5, 50, 0.8, 42))
    assert area(mask) > 32
    assert result.text == "img_2: red circle 0.87, red circle 0.50"
    assert result.images == (desk.view.handle("img_2"),)
    assert {key: result.data[key] for key in (*detect, *settings)} == {**detect, **settings}
    assert result.data["mask"] in desk.view.store
    assert list(desk.view) == ["img_1", "img_2"]


async def test_inpainting_takes_a_mask_by_its_id() -> None:
    desk = Desk(Fake(TWO))
    await desk.call("detect_objects", image_id="img_1", text_prompt="circle")
    result = await desk.call("inpaint_image", image_id="img_1", mask_id="mask_1", prompt="cat", seed=1)
    mask, prompt, params = desk.fake.seen[-1]
    assert (mask.mode, area(mask), prompt, params) == ("L", 32, "cat", InpaintParams(seed=1))
    assert (result.text, result.engine) == ("img_2", "fake")
    assert result.data == {"seed": 1, "source": desk.view.handle("img_1")}


async def test_a_mask_of_another_size_names_both() -> None:
    desk = Desk(Fake())
    desk.view.add(Image.new("L", (10, 12)), "mask")
    with pytest.raises(ToolError, match="mask_1 is 10x12 but img_1 is 64x48"):
        await desk.call("inpaint_image", image_id="img_1", mask_id="mask_1", prompt="")


async def test_a_mask_that_is_none_says_how_to_get_one() -> None:
    desk = Desk(Fake())
    with pytest.raises(ToolError, match=r"^img_1 is a colour picture, not a mask: call detect_objects on img_1"):
        await desk.call("inpaint_image", image_id="img_1", mask_id="img_1", prompt="")
    desk.view.add(Image.new("L", (64, 48)), "mask")
    with pytest.raises(ToolError, match=r"^mask_1 is black, so nothing would change: detect again"):
        await desk.call("inpaint_image", image_id="img_1", mask_id="mask_1", prompt="")
    assert not desk.fake.seen
    grey = disc(10).convert("RGB")
    mask_id = desk.view.add(grey)
    assert (await desk.call("inpaint_image", image_id="img_1", mask_id=mask_id, prompt="")).text == "img_3"
    assert area(desk.fake.seen[0][0]) == 16


@pytest.mark.parametrize("value", [1, 3, 255])
async def test_a_users_mask_is_read_in_its_own_form(value: int) -> None:
    desk = Desk(Fake())
    mask_id = desk.view.add(disc(10).point(lambda pixel: value if pixel else 0))
    await desk.call("inpaint_image", image_id="img_1", mask_id=mask_id, prompt="")
    assert desk.fake.seen[0][0].tobytes() == disc(10).tobytes()


async def test_a_faint_mask_of_a_detection_stays_faint() -> None:
    desk = Desk(Fake())
    faint = disc(10).point(lambda pixel: 3 if pixel else 0)
    desk.view.add(faint, "mask")
    for name in ("mask_1", desk.view.handle("mask_1")):
        await desk.call("inpaint_image", image_id="img_1", mask_id=name, prompt="")
        assert desk.fake.seen[-1][0].tobytes() == faint.tobytes()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("detect_objects", {"text_prompt": " \n"}, "text_prompt is empty: name what to find, for example 'a dog'"),
        ("auto_inpaint_image", {"detect_prompt": "", "prompt": "x"}, "detect_prompt is empty: name what to find"),
        ("qwen_edit_image", {"prompt": ""}, "prompt is empty: say what to change"),
        ("qwen_edit_image", {"prompt": "x" * 2001}, "prompt has 2001 characters, at most 2000 are taken: shorten it"),
        ("inpaint_image", {"mask_id": "img_1", "prompt": "x" * 2001}, "prompt has 2001 characters"),
    ],
)
async def test_prompts_that_nothing_can_use_are_refused_before_any_work(
    name: str, arguments: dict[str, Any], words: str
) -> None:
    desk = Desk(Fake(TWO))
    with pytest.raises(ToolError, match=f"^{words}"):
        await desk.call(name, image_id="img_1", **arguments)
    assert not desk.fake.seen


@pytest.mark.parametrize("prompt", ["a\x00b", "<|im_end|>", "🐈‍⬛", "line\nline", "'; DROP TABLE", "word " * 300])
async def test_strange_prompts_reach_the_engine_as_they_are_and_are_told_back_briefly(prompt: str) -> None:
    desk = Desk(Fake())
    with pytest.raises(ToolError) as refused:
        await desk.call("detect_objects", image_id="img_1", text_prompt=prompt)
    assert len(str(refused.value)) < 250
    assert desk.fake.seen == [(prompt, 0.35, 0.25)]


async def test_a_misspelt_setting_is_told_with_the_nearest() -> None:
    with pytest.raises(ToolError, match=r"unknown box_treshold \(did you mean box_threshold\?\)"):
        await Desk(Fake()).call("detect_objects", image_id="img_1", text_prompt="x", box_treshold=0.2)


async def test_every_setting_reaches_the_editor() -> None:
    desk = Desk(Fake())
    settings = {"negative_prompt": "x", "true_cfg_scale": 6.0, "num_inference_steps": 75, "seed": 123}
    result = await desk.call("qwen_edit_image", image_id="img_1", prompt="sunset", **settings)
    assert desk.fake.seen == [("sunset", EditParams("x", 6.0, 75, 123))]
    assert (result.text, result.images) == ("img_2", (desk.view.handle("img_2"),))


async def test_an_edit_that_changed_nothing_says_so_and_makes_no_new_image() -> None:
    desk = Desk(Fake(TWO, colour=None))
    result = await desk.call("qwen_edit_image", image_id="img_1", prompt="sunset")
    assert (result.text, result.images) == ("img_1: nothing changed", ())
    assert len(desk.view) == 1


async def test_the_refusal_of_an_engine_reaches_the_model() -> None:
    with pytest.raises(ToolError, match=r"^needs a model backend: fly$"):
        await Desk(Fake()).call("qwen_edit_image", image_id="img_1", prompt="fly")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("inpaint_image", {"image_id": "view_1", "mask_id": "mask_1", "prompt": ""}),
        ("auto_inpaint_image", {"image_id": "view_1", "detect_prompt": "x", "prompt": ""}),
        ("qwen_edit_image", {"image_id": "view_1", "prompt": "x"}),
        ("give_answer", {"final_image_id": "view_1"}),
    ],
)
async def test_a_view_is_looked_at_and_neither_edited_nor_answered_with(name: str, arguments: dict[str, Any]) -> None:
    desk = Desk(Fake(TWO))
    desk.view.add(Image.new("RGB", (64, 48), "white"), "view")
    assert (await desk.call("detect_objects", image_id="view_1", text_prompt="x")).text.startswith("mask_1: ")
    with pytest.raises(ToolError, match=r"view_1 only shows something, so it cannot be .*: use img_1"):
        await desk.call(name, **arguments)


def test_detection_alone_looks() -> None:
    assert [tool.name for tool in Desk(Fake()).tools if tool.looks] == ["detect_objects"]


async def test_the_answer_ends_the_chain_with_its_image() -> None:
    desk = Desk(Fake())
    result = await desk.call("give_answer", final_image_id="img_1", description="Done.")
    assert result == ToolResult("Done.", (desk.view.handle("img_1"),), final=True)
    assert (await desk.call("give_answer", final_image_id="img_1")).text == "img_1"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("detect_objects", {"image_id": "img_7", "text_prompt": "x"}),
        ("inpaint_image", {"image_id": "img_1", "mask_id": "img_7", "prompt": ""}),
        ("auto_inpaint_image", {"image_id": "img_7", "detect_prompt": "x", "prompt": ""}),
        ("qwen_edit_image", {"image_id": "img_7", "prompt": "x"}),
        ("give_answer", {"final_image_id": "img_7"}),
    ],
)
async def test_unknown_images_are_told_with_the_known_ones(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolError, match=r"unknown image id 'img_7'.*img_1"):
        await Desk(Fake(TWO)).call(name, **arguments)


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("box_threshold", 1.2, "must be <= 1"),
        ("text_threshold", -0.1, "must be >= 0"),
        ("auto_mask_dilate", 257, "must be <= 256"),
        ("auto_mask_feather", -1, "must be >= 0"),
        ("num_inference_steps", 0, "must be >= 1"),
        ("num_inference_steps", 201, "must be <= 200"),
        ("strength", 0, "must be > 0"),
        ("strength", 1.1, "must be <= 1"),
        ("seed", -1, "must be >= 0"),
    ],
)
async def test_settings_out_of_range_are_refused_before_any_work(argument: str, value: float, words: str) -> None:
    desk = Desk(Fake(TWO))
    with pytest.raises(ToolError, match=f"^auto_inpaint_image: {argument} {words}, got {value}$"):
        await desk.call("auto_inpaint_image", image_id="img_1", detect_prompt="x", prompt="", **{argument: value})
    assert not desk.fake.seen


LONG = "x" * 50_000


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_id": LONG, "prompt": "blue"},
        {"image_id": "img_1", "prompt": "blue", LONG: 1},
        {"image_id": "img_1", "prompt": "blue", **{f"{number}{LONG}": 1 for number in range(40)}},
        {"image_id": [LONG], "prompt": {LONG: LONG}},
    ],
)
async def test_what_a_model_writes_at_any_length_is_echoed_shortly(arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolError) as fault:
        await Desk(Fake()).call("qwen_edit_image", **arguments)
    assert len(str(fault.value)) < 2500
