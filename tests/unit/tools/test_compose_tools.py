"""Composing: pixels that are pasted and pixels that stay, masks by algebra, alpha, and edits with references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.errors import EngineUnavailable, ToolError
from agentfly.images import ImageStore, ImageView
from agentfly.messages import ToolCall
from agentfly.tools import ToolResult, Toolset
from agentfly.tools.compose_tools import ComposeTools
from agentfly.vision.base import Editor, EditParams, Engines
from agentfly.vision.classical import classical_engines

SIZE = (40, 30)


def noise(seed: int, size: tuple[int, int] = SIZE, channels: int = 3) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(values)


def grey_mask(seed: int = 9, size: tuple[int, int] = SIZE) -> Image.Image:
    """A mask with 0, 255 and everything between."""
    values = np.random.default_rng(seed).integers(-200, 456, (size[1], size[0])).clip(0, 255)
    return Image.fromarray(values.astype(np.uint8))


class Studio:
    """One chain with the images `img_1` and `img_2`, and a soft mask `mask_1` of their size."""

    def __init__(self, editor: Editor | None = None, *more: Image.Image) -> None:
        classical = classical_engines()
        engines = Engines(classical.detector, classical.inpainter, editor or classical.editor)
        self.view = ImageView(ImageStore())
        for image in (noise(1), noise(2), *more):
            self.view.add(image)
        self.view.add(grey_mask(), "mask")
        self.tools = Toolset.of(ComposeTools(self.view, engines))

    async def call(self, name: str, **arguments: Any) -> ToolResult:
        return await self.tools.execute(ToolCall("c", name, arguments))

    async def pixels(self, name: str, **arguments: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The pixels of the image that a call makes."""
        result = await self.call(name, **arguments)
        return self[result.text.split(":")[0]]

    def __getitem__(self, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.asarray(self.view.get(name)).astype(np.int64)


def test_every_argument_is_described_and_masks_are_no_edits() -> None:
    tools = Studio().tools
    for schema in tools.schemas():
        for argument in schema["function"]["parameters"]["properties"].values():
            assert argument["description"]
    edits = [tool.name for tool in tools if not tool.looks]
    assert edits == ["paste_image", "cut_out", "fill_background", "edit_with_references"]


async def test_a_box_is_pasted_exactly_and_nothing_else_changes() -> None:
    studio = Studio()
    result = await studio.call("paste_image", image_id="img_1", source_id="img_2", source_box=[5, 6, 15, 18], x=20, y=2)
    assert result.text == "img_3: pasted at [20, 2, 30, 14]"
    assert result.data == {
        "references": [studio.view.handle("img_2")],
        "source_box": [5, 6, 15, 18],
        "box": [20, 2, 30, 14],
        "source": studio.view.handle("img_1"),
    }
    expected = studio["img_1"].copy()
    expected[2:14, 20:30] = studio["img_2"][6:18, 5:15]
    assert (studio["img_3"] == expected).all()


async def test_a_mask_is_pasted_at_its_own_place_by_its_grey_values() -> None:
    studio = Studio()
    pasted = await studio.pixels("paste_image", image_id="img_1", source_id="img_2", source_mask_id="mask_1")
    below, above, mask = studio["img_1"], studio["img_2"], studio["mask_1"]
    assert (pasted[mask == 0] == below[mask == 0]).all()
    assert (pasted[mask == 255] == above[mask == 255]).all()
    share = mask[..., None] / 255
    assert np.abs(pasted - (below + share * (above - below))).max() <= 1
    assert 0 < (mask % 255 > 0).mean() < 1


async def test_mask_and_box_take_what_both_cover() -> None:
    studio = Studio()
    pasted = await studio.pixels(
        "paste_image", image_id="img_1", source_id="img_2", source_mask_id="mask_1", source_box=[10, 10, 20, 20]
    )
    whole = await studio.pixels("paste_image", image_id="img_1", source_id="img_2", source_mask_id="mask_1")
    expected = studio["img_1"].copy()
    expected[10:20, 10:20] = whole[10:20, 10:20]
    assert (pasted == expected).all()


@pytest.mark.parametrize(
    ("x", "y", "rows", "columns", "box"),
    [
        (-4, -7, slice(0, 3), slice(0, 6), [0, 0, 6, 3]),
        (35, 25, slice(25, 30), slice(35, 40), [35, 25, 40, 30]),
    ],
)
async def test_what_reaches_beyond_the_edge_is_cut(x: int, y: int, rows: slice, columns: slice, box: list[int]) -> None:
    studio = Studio()
    result = await studio.call("paste_image", image_id="img_1", source_id="img_2", source_box=[0, 0, 10, 10], x=x, y=y)
    assert result.data["box"] == box
    expected = studio["img_1"].copy()
    part = studio["img_2"][:10, :10]
    expected[rows, columns] = part[box[1] - y : box[3] - y, box[0] - x : box[2] - x]
    assert (studio["img_3"] == expected).all()


async def test_a_scaled_part_keeps_the_colours_inside_of_its_mask() -> None:
    """Scaling colours and alpha one by one would mix what was cut away into the edge."""
    red = Image.new("RGB", SIZE, (0, 0, 255))
    red.paste((255, 0, 0), (10, 10, 20, 20))
    studio = Studio(None, Image.new("RGB", (80, 60), (255, 0, 0)), red)
    mask = await studio.call("shape_to_mask", image_id="img_4", shape="box", box=[10, 10, 20, 20])
    result = await studio.call(
        "paste_image",
        image_id="img_3",
        source_id="img_4",
        source_mask_id=mask.text.split(":")[0],
        x=3,
        y=4,
        scale=2.5,
    )
    # Red on red: any blue would be what the mask leaves out.
    assert result.text == "img_3: nothing changed"
    assert result.data["box"] == [3, 4, 28, 29]


async def test_opacity_is_a_share_of_the_alpha() -> None:
    studio = Studio()
    half = await studio.pixels("paste_image", image_id="img_1", source_id="img_2", opacity=0.5)
    assert np.abs(half - (studio["img_1"] + studio["img_2"]) / 2).max() <= 2


async def test_transparent_pixels_of_the_target_keep_even_their_hidden_colours() -> None:
    studio = Studio(None, noise(5, channels=4))
    pasted = await studio.pixels(
        "paste_image", image_id="img_3", source_id="img_2", source_mask_id="mask_1", source_box=[4, 4, 30, 20]
    )
    kept = np.ones((30, 40), bool)
    kept[4:20, 4:30] = studio["mask_1"][4:20, 4:30] == 0
    full = ~kept & (studio["mask_1"] == 255)
    assert (pasted[kept] == studio["img_3"][kept]).all()
    assert (pasted[full][:, :3] == studio["img_2"][full]).all()
    assert (pasted[full][:, 3] == 255).all()


async def test_grey_on_grey_stays_grey_and_colour_on_grey_becomes_colour() -> None:
    greys = [noise(7).convert("L"), noise(8).convert("L")]
    studio = Studio(None, *greys)
    grey = await studio.pixels("paste_image", image_id="img_3", source_id="img_4", source_box=[0, 0, 5, 5])
    assert grey.shape == (30, 40)
    assert (grey[:5, :5] == studio["img_4"][:5, :5]).all()
    assert (grey[5:] == studio["img_3"][5:]).all()
    colour = await studio.pixels("paste_image", image_id="img_3", source_id="img_2", source_box=[0, 0, 5, 5])
    assert (colour[5:] == studio["img_3"][5:, :, None]).all()
    assert (colour[:5, :5] == studio["img_2"][:5, :5]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "mask_1"}, "mask_1 is a mask, so it cannot be edited: use img_1 or img_2"),
        ({"image_id": "view_1"}, "view_1 only shows something, so it cannot be edited"),
        ({"source_id": "img_9"}, "unknown image id 'img_9'"),
        ({"source_box": [9, 9, 9, 12]}, r"the box \[9, 9, 9, 12\] holds no pixel of img_2, which is 40x30"),
        ({"source_box": [1, 2, 3]}, "source_box List should have at least 4 items"),
        ({"source_box": [0, 0, 10**400, 5]}, r"source_box\.2 must be between -16384 and 16384"),
        ({"x": 40}, "the part would lie outside of img_1, which is 40x30: choose x and y"),
        ({"x": 10**400}, "x must be between"),
        ({"scale": 0}, "scale must be >= 0.01"),
        ({"opacity": 1.5}, "opacity must be <= 1"),
        ({"source_mask_id": "img_1"}, "img_1 is not a mask: make one with shape_to_mask or detect_objects"),
        ({"source_mask_id": "mask_2"}, "mask_2 is 8x8 but img_2 is 40x30: use a mask of its size"),
        ({"source_mask_id": "mask_3"}, "mask_3 leaves nothing to take: use another mask or box"),
    ],
)
async def test_what_cannot_be_pasted_is_told_with_the_remedy(change: dict[str, Any], message: str) -> None:
    studio = Studio()
    studio.view.add(noise(3), "view")
    studio.view.add(Image.new("L", (8, 8), 255), "mask")
    studio.view.add(Image.new("L", SIZE), "mask")
    with pytest.raises(ToolError, match=message):
        await studio.call("paste_image", **{"image_id": "img_1", "source_id": "img_2", **change})


async def test_a_part_that_would_be_larger_than_memory_is_refused() -> None:
    studio = Studio(None, Image.new("RGB", (2000, 2000)))
    with pytest.raises(ToolError, match="2000x2000, too large for scale 16: lower scale"):
        await studio.call("paste_image", image_id="img_1", source_id="img_3", scale=16)


async def test_union_intersection_and_difference_follow_fuzzy_logic() -> None:
    studio = Studio()
    studio.view.add(grey_mask(10), "mask")
    studio.view.add(grey_mask(11), "mask")
    names = ["mask_1", "mask_2", "mask_3"]
    first, second, third = (studio[name] for name in names)
    found = {
        operation: await studio.pixels("combine_masks", mask_ids=names, operation=operation)
        for operation in ("union", "intersection", "difference")
    }
    assert (found["union"] == np.maximum.reduce([first, second, third])).all()
    assert (found["intersection"] == np.minimum.reduce([first, second, third])).all()
    assert (found["difference"] == np.minimum.reduce([first, 255 - second, 255 - third])).all()


async def test_masks_of_two_sizes_do_not_combine() -> None:
    studio = Studio()
    studio.view.add(Image.new("L", (8, 8), 255), "mask")
    with pytest.raises(ToolError, match="mask_2 is 8x8 but mask_1 is 40x30"):
        await studio.call("combine_masks", mask_ids=["mask_1", "mask_2"], operation="union")


async def test_a_mask_tells_its_share_and_its_box() -> None:
    studio = Studio()
    box = await studio.call("shape_to_mask", image_id="img_1", shape="box", box=[10, 5, 30, 20])
    assert box.text == "mask_2: covers 25.0%, box [10, 5, 30, 20]"
    assert box.data == {"share": 0.25, "box": [10, 5, 30, 20]}
    empty = await studio.call("combine_masks", mask_ids=["mask_2", "mask_2"], operation="difference")
    assert empty.text == "mask_3: covers nothing"


async def test_inverting_twice_is_the_mask_itself() -> None:
    studio = Studio()
    inverted = await studio.pixels("change_mask", mask_id="mask_1", invert=True)
    assert (inverted == 255 - studio["mask_1"]).all()
    again = await studio.call("change_mask", mask_id="mask_2", invert=True)
    assert again.text.startswith("mask_1: ")


async def test_growing_and_shrinking_a_square_moves_its_edges() -> None:
    studio = Studio()
    await studio.call("shape_to_mask", image_id="img_1", shape="box", box=[10, 8, 30, 22])
    grown = await studio.call("change_mask", mask_id="mask_2", grow=3)
    assert grown.data["box"] == [7, 5, 33, 25]
    shrunk = await studio.call("change_mask", mask_id="mask_2", grow=-3)
    assert shrunk.data["box"] == [13, 11, 27, 19]
    # A square shrinks to a square.
    assert shrunk.data["share"] == round(14 * 8 / 1200, 6)


async def test_a_mask_that_touches_the_edge_of_the_image_does_not_shrink_from_there() -> None:
    studio = Studio()
    await studio.call("shape_to_mask", image_id="img_1", shape="box", box=[-5, -5, 20, 99])
    shrunk = await studio.call("change_mask", mask_id="mask_2", grow=-4)
    assert shrunk.data["box"] == [0, 0, 16, 30]


async def test_feathering_softens_the_edge_and_keeps_the_middle() -> None:
    studio = Studio()
    await studio.call("shape_to_mask", image_id="img_1", shape="box", box=[0, 0, 20, 30])
    soft = await studio.pixels("change_mask", mask_id="mask_2", feather=3)
    assert (soft[:, 0] == 255).all()
    assert (soft[:, 39] == 0).all()
    assert (np.diff(soft[15]) <= 0).all()
    assert abs(soft[15, 19] + soft[15, 20] - 255) <= 2


async def test_a_change_of_nothing_is_refused() -> None:
    with pytest.raises(ToolError, match="give invert, grow or feather"):
        await Studio().call("change_mask", mask_id="mask_1")


@pytest.mark.parametrize("box", [[5, 5, 25, 15], [-10, 3, 21, 40], [0, 0, 1, 1]])
async def test_an_ellipse_holds_the_pixels_whose_centres_it_holds(box: list[int]) -> None:
    ellipse = await Studio().pixels("shape_to_mask", image_id="img_1", shape="ellipse", box=box)
    x0, y0, x1, y1 = box
    for row in range(30):
        for column in range(40):
            across = (column + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)
            down = (row + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)
            assert ellipse[row, column] == (255 if across**2 + down**2 <= 1 else 0)


async def test_cut_out_keeps_colours_and_its_alpha_comes_back_as_the_mask() -> None:
    studio = Studio()
    cut = await studio.pixels("cut_out", image_id="img_1", mask_id="mask_1")
    assert (cut[..., :3] == studio["img_1"]).all()
    assert (cut[..., 3] == studio["mask_1"]).all()
    assert (await studio.call("alpha_to_mask", image_id="img_3")).text.startswith("mask_1: ")
    # A second mask is a share of what the first has left.
    studio.view.add(Image.new("L", SIZE, 128), "mask")
    again = await studio.pixels("cut_out", image_id="img_3", mask_id="mask_2")
    assert np.abs(again[..., 3] - studio["mask_1"] * 128 / 255).max() <= 1


async def test_a_background_shows_where_an_image_is_transparent() -> None:
    studio = Studio()
    await studio.call("cut_out", image_id="img_1", mask_id="mask_1")
    filled = await studio.pixels("fill_background", image_id="img_3", colour="#0a141e")
    mask = studio["mask_1"]
    assert filled.shape == (30, 40, 3)
    assert (filled[mask == 0] == (10, 20, 30)).all()
    assert (filled[mask == 255] == studio["img_1"][mask == 255]).all()


async def test_images_without_alpha_and_words_that_are_no_colour_are_refused() -> None:
    studio = Studio()
    for name, more in (("alpha_to_mask", {}), ("fill_background", {"colour": "white"})):
        with pytest.raises(ToolError, match="img_1 has no transparent part: cut something out"):
            await studio.call(name, image_id="img_1", **more)
    await studio.call("cut_out", image_id="img_1", mask_id="mask_1")
    with pytest.raises(ToolError, match="'bluish' is no colour: give a name, such as white, or #rrggbb"):
        await studio.call("fill_background", image_id="img_3", colour="bluish")


class Copying:
    """An editor that takes three images, and copies the last."""

    name = "copying"
    max_images = 3

    def __init__(self) -> None:
        self.seen: list[tuple[list[bytes], str, EditParams]] = []

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        return await self.edit_images([image], instruction, params)

    async def edit_images(self, images: Sequence[Image.Image], instruction: str, params: EditParams) -> Image.Image:
        self.seen.append(([image.tobytes() for image in images], instruction, params))
        return images[-1]


async def test_references_reach_the_editor_in_their_order() -> None:
    editor = Copying()
    studio = Studio(editor, noise(3))
    ids = ["img_2", "img_3", "img_1"]
    result = await studio.call("edit_with_references", image_ids=ids, prompt="the hat of image 2", seed=4)
    handles = [studio.view.handle(name) for name in ids]
    assert (result.text, result.engine, result.images) == ("img_1", "copying", (handles[2],))
    assert result.data == {"seed": 4, "references": handles[1:], "source": handles[0]}
    images = [studio.view.get(name).tobytes() for name in ids]
    assert editor.seen == [(images, "the hat of image 2", EditParams(seed=4))]


async def test_one_image_is_an_ordinary_edit_for_any_editor() -> None:
    result = await Studio().call("edit_with_references", image_ids=["img_1"], prompt="brighten")
    assert (result.text, result.engine) == ("img_3", "classical")


async def test_an_editor_that_takes_fewer_images_says_how_many() -> None:
    studio = Studio()
    call = {"image_ids": ["img_1", "img_2"], "prompt": "brighten"}
    with pytest.raises(EngineUnavailable, match="classical takes one; give one image, or paste a part"):
        await studio.call("edit_with_references", **call)
    many = Studio(Copying())
    with pytest.raises(ToolError, match="copying takes 3 images at most, got 4: leave some out"):
        await many.call("edit_with_references", image_ids=["img_1", "img_2"] * 2, prompt="brighten")
    with pytest.raises(ToolError, match="image_ids"):
        await many.call("edit_with_references", image_ids=["img_1"] * 17, prompt="brighten")
    with pytest.raises(ToolError, match="prompt is empty: say what to change"):
        await many.call("edit_with_references", image_ids=["img_1"], prompt=" ")


@pytest.mark.parametrize(
    "colour", ["rgb(300,0,0)", "hsl(20,300%,50%)", "#12345678", "rgba(1,2,3,4)", "transparent", ""]
)
async def test_a_colour_that_cannot_fill_is_refused(colour: str) -> None:
    studio = Studio(None, noise(3, channels=4))
    with pytest.raises(ToolError, match="is no colour: give a name, such as white, or #rrggbb"):
        await studio.call("fill_background", image_id="img_3", colour=colour)


async def test_a_background_is_not_filled_where_nothing_is_transparent() -> None:
    opaque = noise(3)
    opaque.putalpha(255)
    studio = Studio(None, opaque)
    with pytest.raises(ToolError, match="img_3 has no transparent part"):
        await studio.call("fill_background", image_id="img_3", colour="white")


async def test_an_opacity_too_low_to_be_seen_changes_nothing_and_blames_no_mask() -> None:
    result = await Studio().call("paste_image", image_id="img_1", source_id="img_2", opacity=0.001)
    assert result.text == "img_1: nothing changed"
    assert not result.images
