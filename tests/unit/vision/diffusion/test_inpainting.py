"""Inpainting with tiny checkpoints of every class: what changes, what stays, and what a seed fixes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.errors import ToolError
from agentfly.vision.base import InpaintParams
from agentfly.vision.diffusion import DiffusionInpainter
from tests.unit.vision.diffusion.conftest import Calls, difference

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

CLASSES = ["sd_inpaint", "sdxl_inpaint", "flux_fill", "qwen_edit_inpaint"]
SEEDED = InpaintParams(seed=3)
Make = Callable[..., DiffusionInpainter]


@pytest.mark.parametrize("name", CLASSES)
async def test_masked_pixels_change_and_all_others_are_exactly_the_source(
    inpainter: Make, name: str, noise: Image.Image, soft_mask: Image.Image
) -> None:
    painted = await inpainter(name).inpaint(noise, soft_mask, "a cat", SEEDED)
    assert (painted.size, painted.mode) == (noise.size, "RGB")
    before, after, mask = np.asarray(noise), np.asarray(painted), np.asarray(soft_mask)
    assert (after[mask == 0] == before[mask == 0]).all()
    assert (after[mask == 255] != before[mask == 255]).mean() > 0.5
    assert (after[mask == 100] != before[mask == 100]).mean() > 0.5


@pytest.mark.parametrize("name", CLASSES)
async def test_a_seed_gives_its_image_alone_or_in_a_batch(
    inpainter: Make, name: str, noise: Image.Image, soft_mask: Image.Image, calls: Calls
) -> None:
    engine = inpainter(name, batch_window_ms=2000.0, max_batch=3)
    single = inpainter(name, max_batch=1)
    prompts = ["a cat", "a large dog with black spots, lying on green grass", ""]
    alone = [
        await single.inpaint(noise, soft_mask, prompt, InpaintParams(seed=seed)) for seed, prompt in enumerate(prompts)
    ]
    together = await asyncio.gather(
        *(engine.inpaint(noise, soft_mask, prompt, InpaintParams(seed=seed)) for seed, prompt in enumerate(prompts))
    )
    assert calls.sizes == [1, 1, 1, 3]
    assert [difference(a, b) <= 2 for a, b in zip(alone, together, strict=True)] == [True] * 3
    assert difference(alone[0], alone[1]) > 2


async def test_the_same_prompt_with_another_seed_is_another_image(
    inpainter: Make, noise: Image.Image, soft_mask: Image.Image
) -> None:
    engine = inpainter("sd_inpaint")
    images = [
        await engine.inpaint(noise, soft_mask, "a cat", InpaintParams(seed=seed)) for seed in (3, 3, 4, None, None)
    ]
    assert difference(images[0], images[1]) == 0
    assert all(difference(images[i], images[j]) > 0 for i, j in ((0, 2), (0, 3), (3, 4)))


@pytest.mark.parametrize(
    "change",
    [{"negative_prompt": "blur"}, {"guidance_scale": 2.0}, {"num_inference_steps": 5}, {"strength": 0.5}, {"seed": 4}],
    ids=lambda change: next(iter(change)),
)
async def test_every_parameter_matters(
    inpainter: Make, noise: Image.Image, soft_mask: Image.Image, change: dict[str, Any]
) -> None:
    engine = inpainter("sdxl_inpaint")
    usual = InpaintParams(None, 7.0, 4, 1.0, 3)
    images = [await engine.inpaint(noise, soft_mask, "a cat", params) for params in (usual, replace(usual, **change))]
    assert difference(*images) > 0


async def test_parameters_and_the_hard_mask_reach_the_pipeline(
    inpainter: Make, noise: Image.Image, soft_mask: Image.Image, calls: Calls
) -> None:
    await inpainter("sd_inpaint").inpaint(noise, soft_mask, " ", InpaintParams("blur", 5.0, 4, 0.75, 9))
    given = calls.arguments[0]
    assert given["prompt"] == ["empty background"]
    assert (given["negative_prompt"], given["guidance_scale"]) == (["blur"], 5.0)
    assert (given["num_inference_steps"], given["strength"]) == (4, 0.75)
    assert given["generator"][0].initial_seed() == 9
    values = np.asarray(given["mask_image"][0])
    assert set(np.unique(values)) == {0, 255}
    assert values.mean() / 255 == pytest.approx(48 * 32 / (128 * 96), rel=0.1)


async def test_images_of_any_size_and_mode_come_back_as_they_were(inpainter: Make, noise: Image.Image) -> None:
    for size, mode in (((37, 81), "RGB"), ((200, 50), "L"), ((64, 64), "RGBA")):
        source = noise.resize(size).convert(mode)
        if mode == "RGBA":
            source.putalpha(Image.linear_gradient("L").resize(size))
        mask = Image.new("L", size, 0)
        mask.paste(255, (10, 10, 30, 30))
        painted = await inpainter("sd_inpaint").inpaint(source, mask, "a cat", SEEDED)
        assert painted.size == size
        assert painted.mode == ("RGBA" if mode == "RGBA" else "RGB")
        if mode == "RGBA":
            assert painted.getchannel("A").tobytes() == source.getchannel("A").tobytes()


async def test_requests_with_other_settings_or_shapes_do_not_share_a_batch(
    inpainter: Make, noise: Image.Image, soft_mask: Image.Image, calls: Calls
) -> None:
    engine = inpainter("sd_inpaint", batch_window_ms=50.0)
    tall, tall_mask = noise.rotate(90, expand=True), soft_mask.rotate(90, expand=True)
    await asyncio.gather(
        engine.inpaint(noise, soft_mask, "a cat", InpaintParams(seed=1)),
        engine.inpaint(noise, soft_mask, "a cat", InpaintParams(seed=1, guidance_scale=3.0)),
        engine.inpaint(tall, tall_mask, "a cat", InpaintParams(seed=1)),
        engine.inpaint(noise.resize((256, 192)), soft_mask.resize((256, 192)), "a cat", InpaintParams(seed=1)),
    )
    assert sorted(calls.sizes) == [1, 1, 2]


async def test_diffusion_runs_in_its_own_thread(
    inpainter: Make, noise: Image.Image, soft_mask: Image.Image, calls: Calls
) -> None:
    await inpainter("sd_inpaint").inpaint(noise, soft_mask, "a cat", SEEDED)
    assert threading.main_thread() not in calls.threads


async def test_masks_that_make_no_sense_are_observations(inpainter: Make, noise: Image.Image) -> None:
    engine = inpainter("sd_inpaint")
    with pytest.raises(ToolError, match="the mask is 5x5 but the image 128x96"):
        await engine.inpaint(noise, Image.new("L", (5, 5), 255), "a cat", SEEDED)
    with pytest.raises(ToolError, match="black everywhere"):
        await engine.inpaint(noise, Image.new("L", noise.size), "a cat", SEEDED)
    with pytest.raises(ToolError, match="takes no negative_prompt"):
        await inpainter("flux_fill").inpaint(
            noise, Image.new("L", noise.size, 255), "a cat", InpaintParams(negative_prompt="blur")
        )


async def test_running_out_of_memory_is_an_observation_and_the_engine_lives_on(
    inpainter: Make, noise: Image.Image, soft_mask: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = inpainter("sd_inpaint")
    engine.load()
    scheduler = type(engine.weights.template("inpaint").scheduler)
    with monkeypatch.context() as patch:

        def exhausted(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        patch.setattr(scheduler, "step", exhausted)
        with pytest.raises(ToolError, match="ran out of memory on this image: try a smaller image"):
            await engine.inpaint(noise, soft_mask, "a cat", SEEDED)
    assert (await engine.inpaint(noise, soft_mask, "a cat", SEEDED)).size == noise.size


async def test_an_image_that_the_safety_checker_withheld_is_an_observation(
    inpainter: Make, noise: Image.Image, soft_mask: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = inpainter("sd_inpaint")
    engine.load()
    pipeline = type(engine.weights.template("inpaint"))
    black = Image.new("RGB", (72, 56))
    monkeypatch.setattr(pipeline, "__call__", lambda self, **_: {"images": [black], "nsfw_content_detected": [True]})
    with pytest.raises(ToolError, match=r"safety checker of .* withheld the image"):
        await engine.inpaint(noise, soft_mask, "a cat", SEEDED)


async def test_an_inpainting_that_nobody_waits_for_stops_at_its_next_step(
    inpainter: Make, noise: Image.Image, soft_mask: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = inpainter("sd_inpaint")
    engine.load()
    scheduler = type(engine.weights.template("inpaint").scheduler)
    steps, original = list[int](), scheduler.step
    stepped, go_on = threading.Event(), threading.Event()

    def step(self: Any, *arguments: Any, **options: Any) -> Any:
        steps.append(1)
        stepped.set()
        go_on.wait(5)
        return original(self, *arguments, **options)

    monkeypatch.setattr(scheduler, "step", step)
    task = asyncio.create_task(engine.inpaint(noise, soft_mask, "a cat", InpaintParams(num_inference_steps=200)))
    assert await asyncio.to_thread(stepped.wait, 10)
    task.cancel()
    await asyncio.wait([task])
    go_on.set()
    # The next request gets its turn when the abandoned one has stopped.
    await engine.inpaint(noise, soft_mask, "a cat", InpaintParams(num_inference_steps=3, seed=1))
    assert len(steps) <= 1 + 4
