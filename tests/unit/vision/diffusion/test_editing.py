"""Editing with tiny checkpoints of every class, alone, in batches, and on several pipelines at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from agentfly.errors import EngineUnavailable, ToolError
from agentfly.vision.base import EditParams
from agentfly.vision.diffusion import DiffusionEditor
from tests.unit.vision.diffusion.conftest import Calls, difference

pytest.importorskip("diffusers")

pytestmark = pytest.mark.slow

Make = Callable[..., DiffusionEditor]
CLASSES = ["qwen_edit", "qwen_edit_plus", "flux_kontext", "instruct_pix2pix"]


@pytest.mark.parametrize("name", CLASSES)
async def test_the_edited_image_has_the_size_of_the_source_and_follows_its_seed(
    editor: Make, name: str, noise: Image.Image
) -> None:
    engine = editor(name)
    first, again, other = [
        await engine.edit(noise, "make it red", EditParams(seed=seed, true_cfg_scale=3.0)) for seed in (1, 1, 2)
    ]
    assert (first.size, first.mode) == (noise.size, "RGB")
    assert difference(first, again) == 0
    assert difference(first, other) > 0
    assert difference(first, noise) > 0


@pytest.mark.parametrize("name", ["qwen_edit", "instruct_pix2pix"])
async def test_a_seed_gives_its_image_alone_or_in_a_batch(
    editor: Make, name: str, noise: Image.Image, calls: Calls
) -> None:
    instructions = ["red", "replace the sky by a sunset over a wide sea", "add snow"]
    # A batch pads the shorter instructions, and one of three has a negative prompt of its own.
    params = [EditParams(negative, 4.0, None, seed) for seed, negative in enumerate((None, "blur, low quality", None))]
    alone = [
        await editor(name, max_batch=1).edit(noise, text, given)
        for text, given in zip(instructions, params, strict=True)
    ]
    batched = editor(name, batch_window_ms=2000.0, max_batch=3)
    together = await asyncio.gather(
        *(batched.edit(noise, text, given) for text, given in zip(instructions, params, strict=True))
    )
    assert calls.sizes == [1, 1, 1, 3]
    assert [difference(a, b) <= 2 for a, b in zip(alone, together, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    "change",
    [{"negative_prompt": "blur"}, {"true_cfg_scale": 2.0}, {"num_inference_steps": 4}, {"seed": 4}],
    ids=lambda change: next(iter(change)),
)
async def test_every_parameter_matters(editor: Make, noise: Image.Image, change: dict[str, Any]) -> None:
    usual = EditParams(None, 6.0, 2, 3)
    images = [await editor("qwen_edit").edit(noise, "red", params) for params in (usual, replace(usual, **change))]
    assert difference(*images) > 0


async def test_defaults_of_the_engine_hold_where_a_request_has_none(
    editor: Make, noise: Image.Image, calls: Calls
) -> None:
    engine = editor("qwen_edit", steps=3, guidance=2.5)
    await engine.edit(noise, "red", EditParams())
    await engine.edit(noise, "red", EditParams(num_inference_steps=1, true_cfg_scale=1.0))
    used = [(given["num_inference_steps"], given["true_cfg_scale"]) for given in calls.arguments]
    assert used == [(3, 2.5), (1, 1.0)]
    # Without guidance a negative prompt would have no effect, and the second pass would cost as much as the first.
    assert ["negative_prompt" in given for given in calls.arguments] == [True, False]


async def test_transparent_parts_are_shown_to_the_model_as_white(
    editor: Make, noise: Image.Image, calls: Calls
) -> None:
    hidden = noise.copy()
    hidden.putalpha(0)
    await editor("qwen_edit").edit(hidden, "red", EditParams(seed=1))
    assert calls.arguments[0]["image"][0].getcolors() == [(128 * 96, (255, 255, 255))]


async def test_several_pipelines_at_once_give_what_one_gives(editor: Make, noise: Image.Image) -> None:
    """Pipelines that shared a scheduler would step through each other's noise levels."""
    params = [EditParams(num_inference_steps=steps, seed=steps) for steps in (2, 3, 4, 5)]
    alone = [await editor("qwen_edit_plus").edit(noise, "red", given) for given in params]
    pool = editor("qwen_edit_plus", concurrency=3)
    together = await asyncio.gather(*(pool.edit(noise, "red", given) for given in params))
    assert [difference(a, b) for a, b in zip(alone, together, strict=True)] == [0] * 4


def test_an_engine_serves_one_event_loop_after_the_other(editor: Make, noise: Image.Image) -> None:
    engine = editor("qwen_edit")
    images = [asyncio.run(engine.edit(noise, "red", EditParams(seed=1))) for _ in range(2)]
    assert difference(*images) == 0


async def test_plus_edits_the_first_image_with_the_others_as_references(
    editor: Make, noise: Image.Image, calls: Calls
) -> None:
    engine, tall = editor("qwen_edit_plus"), Image.new("RGB", (48, 96), "orange")
    params = EditParams(seed=1, true_cfg_scale=3.0)
    both, again, swapped, alone = [
        await engine.edit_images(images, "wear the hat of image 2", params)
        for images in ([noise, tall], [noise, tall], [tall, noise], [noise])
    ]
    # The pipeline itself would give the result the shape of the last reference.
    assert [(given["width"], given["height"]) for given in calls.arguments[:3]] == [(64, 64), (64, 64), (32, 96)]
    assert [len(given["image"]) for given in calls.arguments[:3]] == [2, 2, 2]
    assert calls.arguments[3]["image"].size == noise.size
    assert (both.size, swapped.size) == (noise.size, tall.size)
    assert difference(both, again) == 0
    assert difference(both, alone) > 0


async def test_the_content_and_the_order_of_references_matter(editor: Make, noise: Image.Image) -> None:
    engine, params = editor("qwen_edit_plus"), EditParams(seed=1)
    red, blue = (Image.new("RGB", noise.size, colour) for colour in ("red", "blue"))
    images = [
        await engine.edit_images([noise, *references], "red", params)
        for references in ((red, blue), (blue, red), (red, red))
    ]
    assert difference(images[0], images[1]) > 0
    assert difference(images[0], images[2]) > 0


async def test_references_are_refused_by_other_pipelines_and_beyond_the_limit(editor: Make, noise: Image.Image) -> None:
    plus, single = editor("qwen_edit_plus"), editor("qwen_edit")
    with pytest.raises(ToolError, match="takes 3 images at most, got 4: leave some out"):
        await plus.edit_images([noise] * 4, "red", EditParams())
    with pytest.raises(EngineUnavailable, match="takes one; give one image, or paste"):
        await single.edit_images([noise] * 2, "red", EditParams())
    assert (plus.max_images, single.max_images) == (3, 1)
    assert editor("qwen_edit_plus", max_images=2).max_images == 2
