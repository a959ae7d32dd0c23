"""The tools that look: what the model reads, which views it is shown, and that nothing that looks becomes a result."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from agentfly.agents import Agent, AgentSettings, RolloutLimits, Trajectory
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.errors import ConfigError, ToolError
from agentfly.images import ImageStore, ImageView
from agentfly.messages import ToolCall
from agentfly.tools import ToolResult, Toolset, tool
from agentfly.tools.image_ids import editable
from agentfly.tools.look_tools import ColourName, LookTools
from agentfly.vision.looking import NAMES

RED, GREEN, WHITE, GREY = (225, 30, 35), (30, 165, 60), (250, 250, 250), (90, 90, 90)


def scene() -> Image.Image:
    """A grey image, 96x64, with a red square, a small green one in it, and a second red one."""
    made = Image.new("RGB", (96, 64), GREY)
    made.paste(RED, (8, 8, 40, 40))
    made.paste(GREEN, (20, 20, 24, 24))
    made.paste(RED, (60, 30, 70, 40))
    return made


def edited() -> Image.Image:
    """The scene with its large square painted white."""
    made = scene()
    made.paste(WHITE, (8, 8, 40, 40))
    return made


class Desk:
    """One chain with the scene as `img_1`, the edited one as `img_2`, and the mask of the large square."""

    def __init__(self, **options: Any) -> None:
        self.view = ImageView(ImageStore())
        self.view.add(scene())
        self.view.add(edited())
        mask = Image.new("L", (96, 64))
        mask.paste(255, (8, 8, 40, 40))
        self.view.add(mask, "mask")
        self.tools = Toolset.of(LookTools(self.view, **options))

    async def call(self, name: str, **arguments: Any) -> ToolResult:
        return await self.tools.execute(ToolCall("c", name, arguments))

    async def text(self, name: str, **arguments: Any) -> str:
        return (await self.call(name, **arguments)).text

    def pixels(self, name: str) -> Any:
        return np.asarray(self.view.get(name))


def test_all_look_and_the_names_of_colours_are_those_of_the_engine() -> None:
    tools = list(Desk().tools)
    assert [tool.name for tool in tools] == [
        "zoom",
        "side_by_side",
        "difference",
        "compare_with_source",
        "colour_at",
        "dominant_colours",
        "histogram",
        "measure_mask",
        "count_regions",
    ]
    assert all(tool.looks and not tool.final for tool in tools)
    assert get_args(ColourName) == NAMES


def test_the_schemas_are_short() -> None:
    """They are in every prompt: about 1,100 tokens for all nine."""
    sizes = {schema["function"]["name"]: len(json.dumps(schema)) for schema in Desk().tools.schemas()}
    assert sum(sizes.values()) < 4600
    assert max(sizes.values()) < 800


async def test_zoom_says_what_it_shows_and_enlarges_it() -> None:
    desk = Desk()
    result = await desk.call("zoom", image_id="img_1", box=[16, 16, 32, 28])
    assert result.text == "view_1: img_1 [16, 16, 32, 28] of 96x64 at 5.5x"
    assert result.images == (desk.view.handle("view_1"),)
    assert desk.view.get("view_1").size == (88, 66)
    assert result.data == {"image": "img_1", "box": [16, 16, 32, 28], "times": 5.5}
    exact = await desk.call("zoom", image_id="img_1", box=[16, 16, 32, 28], exact_pixels=True)
    assert exact.text == "view_2: img_1 [16, 16, 32, 28] of 96x64 at 5x"
    shown = np.asarray(scene())[16:28, 16:32].repeat(5, axis=0).repeat(5, axis=1)
    assert np.array_equal(desk.pixels("view_2"), shown)


async def test_a_zoom_into_a_view_keeps_the_coordinates_and_pixels_of_the_image() -> None:
    desk = Desk()
    await desk.call("zoom", image_id="img_1", box=[16, 16, 32, 32], exact_pixels=True)
    assert desk.view.get("view_1").size == (64, 64)
    # At 4x pixels 14 to 34 of the view are parts of pixels 3 to 8 of the box.
    nested = await desk.text("zoom", image_id="view_1", box=[14, 14, 34, 34], exact_pixels=True)
    assert nested == "view_2: img_1 [19, 19, 25, 25] of 96x64 at 13x"
    third = await desk.text("zoom", image_id="view_2", box=[13, 13, 65, 65], exact_pixels=True)
    assert third == "view_3: img_1 [20, 20, 24, 24] of 96x64 at 16x"
    assert (desk.pixels("view_3") == GREEN).all()


async def test_every_tool_looks_through_a_view_at_the_image() -> None:
    desk = Desk()
    await desk.call("zoom", image_id="img_1", box=[16, 16, 32, 32])
    assert await desk.text("colour_at", image_id="view_1", x=22, y=22) == (
        "img_1 (20, 20): green, RGB 30 165 60, #1ea53c, Lab 59 -56 44"
    )
    shares = await desk.text("dominant_colours", image_id="view_1")
    assert shares == "img_1 [16, 16, 32, 32]: red #e11e23 93.8%, green #1ea53c 6.2%"
    counted = await desk.text("count_regions", image_id="view_1", colour="green")
    assert counted == "img_1 [16, 16, 32, 32]: 1 green region: [20, 20, 24, 24] 16"
    assert (await desk.text("histogram", image_id="view_1")).startswith("img_1 [16, 16, 32, 32]: ")


async def test_a_view_of_two_places_that_look_the_same_is_refused_as_a_place() -> None:
    desk = Desk()
    for box in ([70, 0, 80, 10], [70, 45, 80, 55]):
        assert (await desk.text("zoom", image_id="img_1", box=box)).startswith("view_1: ")
    with pytest.raises(ToolError) as caught:
        await desk.call("zoom", image_id="view_1", box=[0, 0, 4, 4])
    assert str(caught.value) == (
        "view_1 shows img_1 [70, 0, 80, 10] and img_1 [70, 45, 80, 55], which look the same: "
        "name the image itself and a box in it"
    )


async def test_a_view_that_is_no_zoom_has_pixels_of_its_own() -> None:
    desk = Desk()
    await desk.call("side_by_side", image_ids=["img_1", "img_2"])
    assert (await desk.text("zoom", image_id="view_1", box=[0, 0, 20, 20])).startswith(
        "view_2: view_1 [0, 0, 20, 20] of"
    )


async def test_boxes_are_cut_to_the_image_and_those_outside_are_refused() -> None:
    desk = Desk()
    assert "img_1 [80, 0, 96, 10] of 96x64" in await desk.text("zoom", image_id="img_1", box=[80, -5, 400, 10])
    for box in ([96, 0, 99, 9], [20, 20, 20, 30], [30, 30, 20, 20]):
        with pytest.raises(ToolError) as caught:
            await desk.call("zoom", image_id="img_1", box=box)
        assert str(caught.value) == (
            f"{box} is not inside img_1, which is 96x64: give 0 <= x0 < x1 <= 96 and 0 <= y0 < y1 <= 64"
        )


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("zoom", {"image_id": "img_1", "box": [1, 2, 3]}, "box List should have at least 4 items"),
        ("zoom", {"image_id": "img_1", "box": [1, 2, 3, 4.5]}, "box.3 must be a valid integer"),
        ("zoom", {"image_id": "img_1"}, "missing box"),
        ("zoom", {"image_id": "img_9", "box": [1, 2, 3, 4]}, "unknown image id 'img_9'"),
        ("side_by_side", {"image_ids": ["img_1"]}, "at least 2 items"),
        ("side_by_side", {"image_ids": ["img_1"] * 5}, "at most 4 items"),
        ("colour_at", {"image_id": "img_1", "x": 96, "y": 0}, r"\(96, 0\) is not inside img_1, .*give 0 <= x < 96"),
        ("colour_at", {"image_id": "img_1", "x": -1, "y": 0}, r"\(-1, 0\) is not inside img_1"),
        ("dominant_colours", {"image_id": "img_1", "count": 0}, "count must be >= 1, got 0"),
        ("count_regions", {"image_id": "img_1", "colour": "mauve"}, "colour must be 'black', 'white'"),
        ("measure_mask", {"mask_id": "img_1"}, "img_1 is not a mask: give the id of a mask"),
    ],
)
async def test_wrong_arguments_are_told_with_the_remedy(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ToolError, match=words):
        await Desk().call(name, **arguments)


async def test_images_side_by_side_whole_or_one_place_of_each() -> None:
    desk = Desk()
    whole = await desk.text("side_by_side", image_ids=["img_1", "img_2"])
    assert whole == "view_1: img_1 | img_2 at 1x"
    part = await desk.text("side_by_side", image_ids=["img_1", "img_2"], box=[8, 8, 40, 40])
    assert part == "view_2: img_1 [8, 8, 40, 40] | img_2 [8, 8, 40, 40] at 2x"
    pixels = desk.pixels("view_2")
    assert pixels.shape == (64, 64 + 4 + 64, 3)
    assert (pixels[:, 68:] == WHITE).all()


async def test_a_difference_is_shown_and_told() -> None:
    desk = Desk()
    result = await desk.call("difference", image_id="img_2", other_id="img_1")
    # 32 x 32 of 96 x 64 pixels; red to white changes by 220, green by 220 too.
    assert result.text == (
        "view_1: img_2 against img_1: 16.7% changed at [8, 8, 40, 40]; change mean 36.7, largest 220"
    )
    pixels = desk.pixels("view_1")
    assert (pixels[8:40, 8:40] == (128 + 110, 0, 0)).all()
    same = await desk.call("difference", image_id="img_1", other_id="img_1")
    assert (same.text, same.images) == ("img_1 against img_1: nothing changed", ())


async def test_a_comparison_with_the_source_tells_inside_from_outside() -> None:
    desk = Desk()
    text = await desk.text("compare_with_source", image_id="img_2", mask_id="mask_1")
    assert text == (
        "img_2 against img_1: 16.7% changed at [8, 8, 40, 40]; change mean 36.7, largest 220; "
        "inside mask_1 100.0% changed, mean 220.0; outside mask_1 0.0% changed, mean 0.0"
    )
    assert "mask" not in await desk.text("compare_with_source", image_id="img_2")
    small = desk.view.add(Image.new("L", (9, 9), 255), "mask")
    with pytest.raises(ToolError, match="mask_2 is 9x9 but img_1 is 96x64: give a mask of img_1"):
        await desk.call("compare_with_source", image_id="img_2", mask_id=small)


async def test_an_image_of_another_size_is_compared_at_that_of_the_source() -> None:
    desk = Desk()
    desk.view.add(edited().resize((192, 128), Image.Resampling.NEAREST))
    text = await desk.text("compare_with_source", image_id="img_3")
    assert text.startswith("img_3, scaled from 192x128, against img_1: ")
    desk.view.add(edited().crop((0, 0, 64, 64)))
    with pytest.raises(ToolError, match="img_4 is 64x64 and img_1 is 96x64: their shapes differ, so look at them with"):
        await desk.call("difference", image_id="img_4", other_id="img_1")


async def test_many_changes_are_told_by_the_largest() -> None:
    desk, made = Desk(), scene()
    for left in range(0, 96, 16):
        made.paste("blue", (left, 50, left + 4 + left // 16, 54))
    desk.view.add(made)
    text = await desk.text("difference", image_id="img_3", other_id="img_1")
    assert "changed at [80, 50, 89, 54], [64, 50, 72, 54], [48, 50, 55, 54], 3 more; " in text


async def test_the_colours_of_a_region() -> None:
    desk = Desk()
    assert await desk.text("dominant_colours", image_id="img_1", count=1) == "img_1: grey #5a5a5a 81.7%, others 18.3%"
    assert await desk.text("dominant_colours", image_id="img_1", box=[60, 30, 70, 50]) == (
        "img_1 [60, 30, 70, 50]: grey #5a5a5a 50.0%, red #e11e23 50.0%"
    )


async def test_the_tones_of_a_region_in_words_and_drawn() -> None:
    desk = Desk()
    text = (
        "img_1 [0, 0, 8, 8]: brightness mean 90, 5% below 90, half below 90, 95% below 90; red 90 green 90 blue 90; "
        "saturation 0.0%; black 0.0%, white 0.0%"
    )
    result = await desk.call("histogram", image_id="img_1", box=[0, 0, 8, 8])
    assert (result.text, result.images) == (text, ())
    drawn = await desk.call("histogram", image_id="img_1", box=[0, 0, 8, 8], draw=True)
    assert drawn.text == f"view_1: histogram of {text}"
    assert desk.view.get("view_1").size == (256, 96)


async def test_a_transparent_region_has_neither_colours_nor_tones() -> None:
    desk = Desk()
    clear = desk.view.add(Image.new("RGBA", (9, 9), (0, 0, 0, 0)))
    for name in ("dominant_colours", "histogram"):
        with pytest.raises(ToolError, match=rf"{clear} is transparent: it has no .*; choose another box or image"):
            await desk.call(name, image_id=clear)
    assert await desk.text("colour_at", image_id=clear, x=0, y=0) == (
        f"{clear} (0, 0): white, RGB 255 255 255, #ffffff, Lab 100 0 0, alpha 0"
    )


async def test_a_mask_is_measured_also_where_a_user_gave_it_or_a_view_shows_it() -> None:
    desk = Desk()
    text = "mask_1: 1024 pixels, 16.7% of 96x64, [8, 8, 40, 40], centre (24, 24), 1 part"
    assert await desk.text("measure_mask", mask_id="mask_1") == text
    await desk.call("zoom", image_id="mask_1", box=[0, 0, 20, 20])
    assert await desk.text("measure_mask", mask_id="view_1") == text
    labels = Image.new("L", (10, 10))
    labels.paste(1, (0, 0, 5, 5))
    labels.paste(1, (6, 6, 8, 8))
    users = desk.view.add(labels)
    assert await desk.text("measure_mask", mask_id=users) == (
        f"{users}: 29 pixels, 29.0% of 10x10, [0, 0, 8, 8], centre (3, 3), 2 parts"
    )


@pytest.mark.parametrize(("value", "words"), [(0, ""), (60, "; its brightest value is 60 of 255")])
async def test_a_mask_without_a_pixel_is_empty(value: int, words: str) -> None:
    desk = Desk()
    mask = desk.view.add(Image.new("L", (8, 6), value), "mask")
    assert await desk.text("measure_mask", mask_id=mask) == f"{mask}: empty, 8x6{words}"


async def test_regions_are_counted_with_their_boxes() -> None:
    desk = Desk()
    assert await desk.text("count_regions", image_id="img_1", colour="red") == (
        "img_1: 2 red regions: [8, 8, 40, 40] 1008, [60, 30, 70, 40] 100"
    )
    assert await desk.text("count_regions", image_id="img_1", colour="red", min_area=101) == (
        "img_1: 1 red region: [8, 8, 40, 40] 1008; 1 thin or small left out"
    )
    assert await desk.text("count_regions", image_id="img_1", colour="blue") == "img_1: no blue regions"
    many = Image.new("RGB", (96, 64), "white")
    for left in range(0, 90, 9):
        many.paste("blue", (left, 0, left + 5, 5))
    name = desk.view.add(many)
    text = await desk.text("count_regions", image_id=name, colour="blue")
    assert text.startswith(f"{name}: 10 blue regions: [0, 0, 5, 5] 25, ")
    assert text.endswith("[63, 0, 68, 5] 25, 2 more")


async def test_no_view_is_larger_than_its_limit() -> None:
    desk = Desk(max_pixels=64 * 64)
    large = desk.view.add(Image.effect_noise((500, 400), 60).convert("RGB"))
    await desk.call("zoom", image_id=large, box=[0, 0, 400, 400])
    await desk.call("side_by_side", image_ids=[large, large, "img_1"])
    await desk.call("difference", image_id=large, other_id=desk.view.add(Image.new("RGB", (500, 400))))
    sizes = [desk.view.get(name).size for name in desk.view if name.startswith("view_")]
    assert len(sizes) == 3
    assert all(width * height <= 64 * 64 for width, height in sizes)
    with pytest.raises(ConfigError, match="max_pixels of a view must be at least 4096, got 10"):
        Desk(max_pixels=10)


async def test_calls_side_by_side_give_what_calls_one_after_the_other_give() -> None:
    calls = [("zoom", {"image_id": "img_1", "box": [left, 0, left + 24, 64]}) for left in (0, 24, 48, 72)]
    one, other = Desk(), Desk()
    in_order = [await one.text(name, **arguments) for name, arguments in calls]
    assert [text.partition(": ")[2] for text in in_order] == [
        text.partition(": ")[2]
        for text in await asyncio.gather(*(other.text(name, **arguments) for name, arguments in calls))
    ]


def seconds(function: Callable[[], object]) -> float:
    """Return the shortest of several times."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


@pytest.mark.slow
def test_looking_costs_little_beside_a_blur_of_the_image() -> None:
    """A bound by ratio: both sides slow down together on a busy machine."""
    images = ImageView(ImageStore())
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (512, 512, 3), np.uint8))
    images.add(noise)
    images.add(noise.filter(ImageFilter.GaussianBlur(2)))
    look = LookTools(images)
    blur = seconds(lambda: noise.filter(ImageFilter.GaussianBlur(8)))
    whole: dict[str, Callable[[], object]] = {
        "zoom": lambda: look.zoom("img_1", [0, 0, 200, 200]),
        "side_by_side": lambda: look.side_by_side(["img_1", "img_2"]),
        "difference": lambda: look.difference("img_2", "img_1"),
        "compare_with_source": lambda: look.compare_with_source("img_2"),
        "colour_at": lambda: look.colour_at("img_1", 5, 5),
        "dominant_colours": lambda: look.dominant_colours("img_1"),
        "histogram": lambda: look.histogram("img_1", draw=True),
        "count_regions": lambda: look.count_regions("img_1", "red"),
    }
    slow = {name: ratio for name, call in whole.items() if (ratio := seconds(call) / blur) > 40}
    assert not slow


class LookAgent(Agent):
    """An agent with the look tools and a tool that edits."""

    def toolset(self, view: ImageView) -> Toolset:
        @tool
        def darken(image_id: str) -> ToolResult:
            """Make an image darker."""
            made = editable(view, image_id).point(lambda value: value // 2)
            name = view.add(made)
            return ToolResult(name, (view.handle(name),))

        return Toolset([darken, *Toolset.of(LookTools(view))])


NAMED = st.sampled_from(["img_1", "img_2", "img_3", "view_1", "view_2", "mask_1", "img_9"])
BOX = st.just([0, 0, 96, 64]) | st.lists(st.integers(-10, 110), min_size=4, max_size=4)
# At its own size a view of the whole image is that image.
WHOLE = ("zoom", {"image_id": "img_1", "box": [0, 0, 96, 64]})
LOOKS = st.one_of(
    st.tuples(st.just("zoom"), st.fixed_dictionaries({"image_id": NAMED, "box": BOX, "exact_pixels": st.booleans()})),
    st.tuples(
        st.just("side_by_side"),
        st.fixed_dictionaries({"image_ids": st.lists(NAMED, max_size=5)}, optional={"box": BOX}),
    ),
    st.tuples(st.just("difference"), st.fixed_dictionaries({"image_id": NAMED, "other_id": NAMED})),
    st.tuples(st.just("compare_with_source"), st.fixed_dictionaries({"image_id": NAMED}, optional={"mask_id": NAMED})),
    st.tuples(
        st.just("colour_at"), st.fixed_dictionaries({"image_id": NAMED, "x": st.integers(), "y": st.integers(0, 60)})
    ),
    st.tuples(
        st.sampled_from(["dominant_colours", "histogram"]),
        st.fixed_dictionaries({"image_id": NAMED}, optional={"box": BOX}),
    ),
    st.tuples(st.just("histogram"), st.fixed_dictionaries({"image_id": NAMED, "box": BOX, "draw": st.just(True)})),
    st.tuples(st.just("measure_mask"), st.fixed_dictionaries({"mask_id": NAMED})),
    st.tuples(st.just("count_regions"), st.fixed_dictionaries({"image_id": NAMED, "colour": st.sampled_from(NAMES)})),
)


def run(turns: list[list[tuple[str, dict[str, Any]]]]) -> Trajectory:
    def said(calls: list[tuple[str, dict[str, Any]]]) -> str:
        texts = (json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls)
        return "".join(f"<tool_call>{text}</tool_call>" for text in texts)

    limits = RolloutLimits(max_turns=50, max_tool_calls=50, max_images=100)
    agent = LookAgent("s", backend=ScriptedBackend([*map(said, turns), "end"]), settings=AgentSettings(limits=limits))
    content = [{"type": "image", "image": scene()}]
    return asyncio.run(agent.run([{"role": "user", "content": content}]))[0]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@example(turns=[[WHOLE]], edit_at=0)
@example(turns=[[WHOLE, WHOLE]], edit_at=None)
@given(turns=st.lists(st.lists(LOOKS, min_size=1, max_size=3), max_size=4), edit_at=st.none() | st.integers(0, 4))
def test_whatever_is_looked_at_the_result_is_that_of_the_edits(
    turns: list[list[tuple[str, dict[str, Any]]]], edit_at: int | None
) -> None:
    edit = [("darken", {"image_id": "img_1"})]
    if edit_at is not None:
        turns = [*turns[:edit_at], edit, *turns[edit_at:]]
    trajectory = run(turns)
    assert trajectory.error is None
    assert trajectory.final_image == run([edit] if edit_at is not None else []).final_image
    looked = [record for record in trajectory.tool_records if record.name != "darken"]
    assert all(record.looks and "source" not in record.data for record in looked)
    assert {name.partition("_")[0] for name in trajectory.names} <= {"img", "view"}
    assert sum(name.startswith("img_") for name in trajectory.names) == 1 + (edit_at is not None)
    assert Trajectory.from_json(trajectory.to_json()).tool_records == trajectory.tool_records


@pytest.mark.parametrize("name", ["compare_with_source", "difference"])
async def test_a_zoomed_view_is_compared_with_the_same_part_of_the_other_image(name: str) -> None:
    desk = Desk()
    await desk.call("zoom", image_id="img_2", box=[0, 0, 48, 32])
    other = {"other_id": "img_1"} if name == "difference" else {"mask_id": "mask_1"}
    text = (await desk.call(name, image_id="view_1", **other)).text
    # 32 x 24 of the 48 x 32 pixels are part of the square that became white.
    assert "img_2 [0, 0, 48, 32] against img_1 [0, 0, 48, 32]: 50.0% changed at [8, 8, 40, 32];" in text
    if name == "compare_with_source":
        assert "inside mask_1 100.0% changed" in text
        assert "outside mask_1 0.0% changed" in text


@pytest.mark.parametrize(("width", "points"), [(3, [186, 187]), (197, [1, 99, 394]), (49, [49, 343])])
async def test_a_box_in_a_view_never_reaches_beyond_the_place_that_it_shows(width: int, points: list[int]) -> None:
    view = ImageView(ImageStore())
    view.add(Image.effect_noise((width + 9, 20), 90).convert("RGB"))
    look = LookTools(view)
    seen = view.add(Image.effect_noise((max(points), 20), 80).convert("RGB"), "view")
    look._places[view.handle(seen)] = {(view.handle("img_1"), (5, 0, 5 + width, 20))}
    for point in points:
        place = look._place(seen, [0, 0, point, 20])
        assert place.box == (5, 0, 5 - (-point * width // max(points)), 20)


async def test_a_mask_that_is_empty_or_full_has_no_figures_on_the_side_that_has_no_pixel() -> None:
    desk = Desk()
    for value, side, other in ((0, "inside", "outside"), (255, "outside", "inside")):
        name = desk.view.add(Image.new("L", (96, 64), value), "mask")
        text = (await desk.call("compare_with_source", image_id="img_2", mask_id=name)).text
        assert f"{side} {name} is no pixel" in text
        assert f"{other} {name} 16.7% changed" in text
