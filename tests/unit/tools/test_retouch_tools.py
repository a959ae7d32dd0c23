"""The retouch tools as a model calls them: names, figures and images that come back, masks, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.errors import ToolError
from agentfly.images import ImageStore, ImageView
from agentfly.messages import ToolCall
from agentfly.tools import ToolResult, Toolset
from agentfly.tools.retouch_tools import RetouchTools
from agentfly.vision import retouching

SIZE = (32, 24)
# One call of each tool that keeps the size, and of each that moves pixels.
ADJUSTMENTS: Mapping[str, Mapping[str, object]] = {
    "adjust_tone": {"exposure": 1, "shadows": -40},
    "adjust_colour": {"saturation": -70, "temperature": 30},
    "adjust_hue_range": {"hue": 30, "width": 180, "shift": 40},
    "adjust_detail": {"blur": 1.5, "grain": 40, "seed": 3},
}
MOVES: Mapping[str, Mapping[str, object]] = {
    "crop_image": {"box": [2, 3, 20, 19]},
    "rotate_image": {"degrees": 12},
    "flip_image": {"direction": "horizontal"},
    "straighten_perspective": {"corners": [2, 2, 30, 1, 28, 20, 4, 22]},
    "resize_image": {"width": 16},
}


def pattern(mode: str = "RGB") -> Image.Image:
    colours = np.random.default_rng(1).integers(20, 200, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    image = Image.fromarray(colours)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(SIZE))
    return image.convert(mode)


class Desk:
    """One chain with an image `img_1`."""

    def __init__(self, image: Image.Image | None = None) -> None:
        self.view = ImageView(ImageStore())
        self.view.add(image or pattern())
        self.tools = Toolset.of(RetouchTools(self.view))

    async def call(self, name: str, **arguments: Any) -> ToolResult:
        return await self.tools.execute(ToolCall("c", name, {"image_id": "img_1"} | arguments))

    def pixels(self, name: str) -> np.ndarray:
        return np.asarray(self.view.get(name))

    def mask(self, left: int, top: int, right: int, bottom: int, value: int = 255) -> str:
        mask = Image.new("L", SIZE)
        mask.paste(value, (left, top, right, bottom))
        return self.view.add(mask, "mask")


async def refusal(desk: Desk, name: str, **arguments: Any) -> str:
    count = len(desk.view)
    with pytest.raises(ToolError) as caught:
        await desk.call(name, **arguments)
    assert len(desk.view) == count
    return str(caught.value)


def test_the_model_sees_nine_tools_that_edit() -> None:
    tools = list(Desk().tools)
    assert [tool.name for tool in tools] == [*ADJUSTMENTS, *MOVES]
    for tool in tools:
        assert not tool.looks
        properties: Any = tool.parameters["properties"]
        assert ("mask_id" in properties) == (tool.name in ADJUSTMENTS)
        for argument in properties.values():
            assert argument["description"]
            # Ranges are in the words, once: in the schema they would cost tokens in every prompt.
            assert argument.keys() <= {"type", "description", "default", "items", "minItems", "maxItems", "enum"}


async def test_tone_is_what_the_function_makes_of_the_parameters() -> None:
    desk = Desk()
    result = await desk.call("adjust_tone", exposure="1", contrast="-20", highlights=10.5, mask_id="null")
    expected = retouching.adjust_tone(desk.pixels("img_1"), exposure=1, contrast=-20, highlights=10.5)
    assert np.array_equal(desk.pixels("img_2"), expected)
    assert (result.text, result.engine, result.final) == ("img_2", "retouch", False)
    assert result.images == (desk.view.handle("img_2"),)
    assert result.data == {
        "exposure": 1.0,
        "contrast": -20.0,
        "highlights": 10.5,
        "shadows": 0,
        "source": desk.view.handle("img_1"),
    }


async def test_colour_hues_and_detail_are_what_the_functions_make() -> None:
    desk = Desk()
    before = desk.pixels("img_1")
    await desk.call("adjust_colour", saturation=-70, temperature="30", tint=5)
    expected = retouching.adjust_colour(before, saturation=-70, temperature=30, tint=5)
    assert np.array_equal(desk.pixels("img_2"), expected)
    result = await desk.call("adjust_hue_range", hue=200, width=90, shift=20, saturation=30, luminance=-50)
    expected = retouching.adjust_hue_range(before, 200, width=90, shift=20, saturation=30, luminance=-50)
    assert np.array_equal(desk.pixels("img_3"), expected)
    assert {"hue": 200.0, "width": 90.0, "shift": 20.0}.items() <= result.data.items()
    result = await desk.call("adjust_detail", blur=2, sharpness=150, grain=10, seed=7)
    expected = retouching.add_grain(retouching.sharpen(retouching.blur(before, 2), 150), 10, seed=7)
    assert np.array_equal(desk.pixels("img_4"), expected)
    assert result.data["seed"] == 7


async def test_moves_say_the_new_size() -> None:
    desk = Desk()
    before = desk.pixels("img_1")
    result = await desk.call("crop_image", box=[-5, 3, "20", 19])
    assert (result.text, result.data["box"]) == ("img_2: 20x16", [0, 3, 20, 19])
    assert np.array_equal(desk.pixels("img_2"), before[3:19, :20])
    assert (await desk.call("rotate_image", degrees="90")).text == "img_3: 24x32"
    assert np.array_equal(desk.pixels("img_3"), np.rot90(before, -1))
    assert (await desk.call("flip_image", direction="vertical")).text == "img_4: 32x24"
    assert np.array_equal(desk.pixels("img_4"), before[::-1])
    corners = [2, 2, 30, 1, 28, 20, 4, 22]
    assert (await desk.call("straighten_perspective", corners=corners)).text == "img_5: 28x20"
    expected = retouching.straighten_perspective(before, [(2, 2), (30, 1), (28, 20), (4, 22)])
    assert np.array_equal(desk.pixels("img_5"), expected)
    assert (await desk.call("resize_image", width=16)).text == "img_6: 16x12"
    assert (await desk.call("resize_image", height=6)).text == "img_7: 8x6"
    assert (await desk.call("resize_image", width=5, height=5)).text == "img_8: 5x5"
    assert np.array_equal(desk.pixels("img_8"), retouching.resize(before, 5, 5))


@pytest.mark.parametrize("name", ADJUSTMENTS)
async def test_outside_of_a_mask_nothing_changes_and_soft_edges_are_in_between(name: str) -> None:
    desk = Desk()
    desk.mask(0, 0, 16, 24)
    soft = np.zeros(SIZE[::-1], np.uint8)
    soft[:, 8:16], soft[:, 16:] = 128, 255
    desk.view.add(Image.fromarray(soft), "mask")
    before = desk.pixels("img_1").astype(float)
    await desk.call(name, **ADJUSTMENTS[name])
    full = desk.pixels("img_2").astype(float)
    assert (full != before).any(-1).mean() > 0.5
    result = await desk.call(name, mask_id="mask_1", **ADJUSTMENTS[name])
    half = desk.pixels("img_3")
    assert np.array_equal(half[:, 16:], before[:, 16:])
    assert np.array_equal(half[:, :16], full[:, :16])
    assert result.data["mask"] == desk.view.handle("mask_1")
    await desk.call(name, mask_id="mask_2", **ADJUSTMENTS[name])
    made = desk.pixels("img_4")
    assert np.array_equal(made[:, :8], before[:, :8])
    assert np.array_equal(made[:, 16:], full[:, 16:])
    assert np.abs(made - (before + (full - before) * 128 / 255))[:, 8:16].max() <= 0.5


async def test_masks_that_do_not_fit_are_refused_with_what_to_do() -> None:
    desk = Desk()
    desk.mask(0, 0, 5, 5)
    await desk.call("crop_image", box=[0, 0, 20, 20])
    said = await refusal(desk, "adjust_tone", image_id="img_2", exposure=1, mask_id="mask_1")
    assert said == "mask_1 is 32x24 but img_2 is 20x20: use a mask of its size"
    desk.mask(0, 0, 0, 0)
    assert "mask_2 is black, so nothing would change" in await refusal(
        desk, "adjust_tone", exposure=1, mask_id="mask_2"
    )
    said = await refusal(desk, "adjust_tone", exposure=1, mask_id="img_1")
    assert said == "img_1 is not a mask: give one that is white where img_1 changes"
    assert "unknown image id 'mask_9'" in await refusal(desk, "adjust_tone", exposure=1, mask_id="mask_9")
    for name, arguments in MOVES.items():
        assert "unknown mask_id" in await refusal(desk, name, mask_id="mask_1", **arguments)


async def test_a_faint_mask_of_a_tool_is_a_faint_change_and_no_labels() -> None:
    desk = Desk(Image.new("RGB", SIZE, (100, 100, 100)))
    desk.mask(0, 0, 16, 24, value=64)
    await desk.call("adjust_tone", exposure=1, mask_id="mask_1")
    full = int(retouching.adjust_tone(desk.pixels("img_1"), exposure=1)[0, 0, 0])
    assert desk.pixels("img_2")[0, 0, 0] == round(100 + (full - 100) * 64 / 255)


@pytest.mark.parametrize("name", ADJUSTMENTS)
async def test_a_call_in_which_all_is_zero_is_refused(name: str) -> None:
    needed = {"hue": 90} if name == "adjust_hue_range" else {}
    said = await refusal(Desk(), name, **needed)
    assert said.startswith("nothing would change in img_1: set ")
    zeros = dict.fromkeys(ADJUSTMENTS[name].keys() - {"hue", "width", "seed"}, 0)
    assert await refusal(Desk(), name, **needed, **zeros) == said


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("adjust_colour", {"saturation": 50}),
        ("adjust_hue_range", {"hue": 0, "shift": 90}),
        ("adjust_detail", {"sharpness": 100}),
        ("adjust_tone", {"exposure": 0.0001}),
        ("crop_image", {"box": [0, 0, 99, 99]}),
        ("rotate_image", {"degrees": 360}),
        ("flip_image", {"direction": "vertical"}),
        ("straighten_perspective", {"corners": [0, 0, 32, 0, 32, 24, 0, 24]}),
        ("resize_image", {"width": 32}),
    ],
)
async def test_a_call_that_leaves_every_pixel_is_refused(name: str, arguments: Mapping[str, object]) -> None:
    desk = Desk(Image.new("RGB", SIZE, (80, 80, 80)))
    assert "nothing would change in img_1: all its pixels stay the same" in await refusal(desk, name, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("adjust_tone", {"exposure": "bright"}, "adjust_tone: exposure must be a valid number"),
        ("adjust_tone", {"exposure": 5.5}, "exposure must be <= 5, got 5.5"),
        ("adjust_tone", {"shadows": "nan"}, "shadows must be a finite number"),
        ("adjust_tone", {"exposures": 1}, "unknown exposures (did you mean exposure?)"),
        ("adjust_colour", {"tint": -101, "saturation": [3]}, "saturation must be a valid number"),
        ("adjust_hue_range", {"shift": 10}, "missing hue"),
        ("adjust_hue_range", {"hue": 400, "shift": 10}, "hue must be <= 360"),
        ("adjust_detail", {"blur": 51}, "blur must be <= 50"),
        ("adjust_detail", {"grain": 5, "seed": -1}, "seed must be >= 0"),
        ("crop_image", {"box": [1, 2, 3]}, "box"),
        ("crop_image", {"box": [20, 0, 20, 5]}, "the box [20, 0, 20, 5] holds no pixel of img_1, which is 32x24"),
        ("crop_image", {"box": [40, 0, 50, 5]}, "give x0, y0, x1, y1 with x0 < x1"),
        ("rotate_image", {"degrees": 720}, "degrees must be <= 360"),
        ("flip_image", {"direction": "left"}, "direction must be 'horizontal' or 'vertical'"),
        ("straighten_perspective", {"corners": [0, 0, 0, 20, 30, 20, 30, 0]}, "img_1: the corners must go clockwise"),
        ("straighten_perspective", {"corners": [0, 0, 90, 0, 30, 20, 0, 20]}, "outside of the image, which is 32x24"),
        ("resize_image", {}, "give width, height or both; img_1 is 32x24"),
        ("resize_image", {"width": 0}, "width must be >= 1"),
        ("resize_image", {"height": 4096}, "img_1 would be 5461x4096, and a side has at most 4096"),
        ("adjust_tone", {"image_id": "img_7", "exposure": 1}, "unknown image id 'img_7'"),
    ],
)
async def test_wrong_arguments_are_answered_with_what_is_right(
    name: str, arguments: Mapping[str, object], said: str
) -> None:
    assert said in await refusal(Desk(), name, **arguments)


@pytest.mark.parametrize("name", [*ADJUSTMENTS, *MOVES])
async def test_masks_and_views_are_not_edited(name: str) -> None:
    desk = Desk()
    desk.mask(0, 0, 5, 5)
    desk.view.add(pattern().crop((0, 0, 9, 9)), "view")
    arguments = {**ADJUSTMENTS, **MOVES}[name]
    assert "mask_1 is a mask, so it cannot be edited: use img_1" in await refusal(
        desk, name, image_id="mask_1", **arguments
    )
    assert "view_1 only shows something" in await refusal(desk, name, image_id="view_1", **arguments)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I;16"])
@pytest.mark.parametrize("name", ["adjust_tone", "adjust_detail", *MOVES])
async def test_images_of_every_mode_are_edited_in_the_mode_they_are_kept_in(name: str, mode: str) -> None:
    image = Image.fromarray(np.asarray(pattern("L")).astype(np.uint16) * 200) if mode == "I;16" else pattern(mode)
    desk = Desk(image)
    await desk.call(name, **{**ADJUSTMENTS, **MOVES}[name])
    before, after = desk.view.get("img_1"), desk.view.get("img_2")
    assert after.mode == before.mode == {"LA": "RGBA", "P": "RGB", "I;16": "L"}.get(mode, mode)
    if after.mode == "RGBA" and name in ADJUSTMENTS:
        assert after.getchannel("A").tobytes() == before.getchannel("A").tobytes()


async def test_a_grey_image_gets_colour_where_colour_is_given() -> None:
    desk = Desk(pattern("L"))
    await desk.call("adjust_colour", temperature=40)
    assert desk.view.get("img_2").mode == "RGB"


async def test_a_turn_with_all_corners_is_transparent_there() -> None:
    desk = Desk()
    result = await desk.call("rotate_image", degrees=45, expand="true")
    image = desk.view.get("img_2")
    assert (image.mode, result.text) == ("RGBA", "img_2: 40x40")
    assert image.getchannel("A").getextrema() == (0, 255)


async def test_an_edit_that_is_undone_has_the_name_of_the_first_image() -> None:
    desk = Desk()
    await desk.call("flip_image", direction="horizontal")
    result = await desk.call("flip_image", image_id="img_2", direction="horizontal")
    assert result.text == "img_1: 32x24"


async def test_the_same_call_gives_the_same_image_and_another_seed_another() -> None:
    desk = Desk()
    first = await desk.call("adjust_detail", grain=30, seed=1)
    again = await desk.call("adjust_detail", grain=30, seed=1)
    other = await desk.call("adjust_detail", grain=30, seed=2)
    assert first.images == again.images != other.images
    assert again.text == "img_2"


async def test_calls_on_results_of_calls_do_not_grow_an_image_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retouching.geometry, "_MOST_MADE", 45 * 45)
    desk = Desk()
    assert (await desk.call("rotate_image", degrees=45, expand=True)).text == "img_2: 40x40"
    with pytest.raises(
        ToolError, match=r"img_2: the result would be 57x57, which is too large: resize the image first"
    ):
        await desk.call("rotate_image", image_id="img_2", degrees=45, expand=True)
    # What does not grow is turned whatever its size.
    monkeypatch.setattr(retouching.geometry, "_MOST_MADE", 1)
    assert (await desk.call("rotate_image", degrees=10)).text.startswith("img_")
