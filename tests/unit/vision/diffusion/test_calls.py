"""A request in the words of each pipeline class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from agentfly.errors import ToolError
from agentfly.vision.diffusion import Weights, WeightSettings
from agentfly.vision.diffusion.calls import Caller, Order
from agentfly.vision.diffusion.pipelines import Role

pytest.importorskip("diffusers")

pytestmark = pytest.mark.slow

Checkpoint = Callable[[str], str]
IMAGE = Image.new("RGB", (128, 96))
MASK = Image.new("L", (128, 96), 255)


@pytest.fixture
def caller(checkpoint: Checkpoint) -> Callable[..., Caller]:
    def make(name: str, role: Role = "inpaint", area: int | None = None) -> Caller:
        return Caller(Weights(WeightSettings(model=checkpoint(name), device="cpu")).template(role), area)

    return make


def arguments(
    caller: Caller, guidance: float | None = None, negatives: tuple[str | None, ...] = (None, "blur"), **plan: Any
) -> dict[str, Any]:
    orders = [
        Order(IMAGE, f"prompt {seed}", seed, MASK if "mask_image" in caller.parameters else None, negative)
        for seed, negative in enumerate(negatives)
    ]
    return caller.arguments(caller.plan(IMAGE.size, 4, guidance, plan.get("strength")), orders, lambda: False)


def test_stable_diffusion_gets_lists_a_size_and_empty_negatives(caller: Callable[..., Caller]) -> None:
    given = arguments(caller("sd_inpaint"), guidance=6.0, strength=0.5)
    assert given["prompt"] == ["prompt 0", "prompt 1"]
    assert given["negative_prompt"] == ["", "blur"]
    assert (given["guidance_scale"], given["num_inference_steps"], given["strength"]) == (6.0, 4, 0.5)
    # Its UNet was trained at 64 x 64 pixels.
    assert (given["width"], given["height"]) == (72, 56)
    assert [image.size for image in (*given["image"], *given["mask_image"])] == [(72, 56)] * 4
    assert [generator.initial_seed() for generator in given["generator"]] == [0, 1]


def test_what_a_request_does_not_set_stays_the_default_of_the_pipeline(caller: Callable[..., Caller]) -> None:
    assert not {"guidance_scale", "strength"} & arguments(caller("sd_inpaint")).keys()
    assert caller("sdxl_inpaint").plan(IMAGE.size, None, None, None).steps == 50


def test_flux_fill_has_guidance_and_no_negative_prompt(caller: Callable[..., Caller]) -> None:
    flux = caller("flux_fill", area=64 * 64)
    given = arguments(flux, guidance=20.0, negatives=(None,))
    assert given["guidance_scale"] == 20.0
    assert "negative_prompt" not in given
    flux.check_negative(None)
    flux.check_negative("")
    with pytest.raises(ToolError, match="takes no negative_prompt: leave it out"):
        flux.check_negative("blur")


@pytest.mark.parametrize(("name", "role"), [("qwen_edit", "edit"), ("qwen_edit_inpaint", "inpaint")])
def test_qwen_guides_only_with_a_negative_prompt_so_it_gets_a_blank(
    caller: Callable[..., Caller], name: str, role: Role
) -> None:
    qwen = caller(name, role)
    assert arguments(qwen)["negative_prompt"] == [" ", "blur"]
    guided = arguments(qwen, guidance=3.0)
    assert (guided["true_cfg_scale"], guided["negative_prompt"]) == (3.0, [" ", "blur"])
    assert "guidance_scale" not in guided
    assert "negative_prompt" not in arguments(qwen, guidance=1.0)
    # It brings images to its own size.
    assert "width" not in guided
    assert guided["image"][0].size == IMAGE.size


def test_plus_takes_one_image_a_call_since_a_list_would_be_references(caller: Callable[..., Caller]) -> None:
    plus = caller("qwen_edit_plus", "edit")
    given = arguments(plus, negatives=("blur",))
    assert not plus.batches
    assert given["image"] is IMAGE
    assert (given["prompt"], given["negative_prompt"]) == ("prompt 0", "blur")


def test_kontext_keeps_its_distilled_guidance_and_the_size_it_is_given(caller: Callable[..., Caller]) -> None:
    kontext = caller("flux_kontext", "edit", area=64 * 64)
    given = arguments(kontext, guidance=2.5, negatives=(None,))
    assert given["guidance_scale"] == 2.5
    assert given["_auto_resize"] is False
    assert given["max_area"] == given["width"] * given["height"] == 80 * 48


def test_strength_is_refused_where_there_is_none_and_where_it_leaves_no_step(caller: Callable[..., Caller]) -> None:
    with pytest.raises(ToolError, match="has no strength"):
        caller("qwen_edit", "edit").plan(IMAGE.size, 4, None, 0.5)
    assert caller("qwen_edit", "edit").plan(IMAGE.size, 4, None, 1.0).strength is None
    with pytest.raises(ToolError, match=r"strength 0\.2 of 4 steps leaves no step"):
        caller("sd_inpaint").plan(IMAGE.size, 4, None, 0.2)
    # SDXL's own default of 0.9999 rounds a single step away.
    with pytest.raises(ToolError, match="raise strength or num_inference_steps"):
        caller("sdxl_inpaint").plan(IMAGE.size, 1, None, None)


@pytest.mark.parametrize(("size", "expected"), [((1000, 10), (640, 8)), ((64, 64), (64, 64)), ((4000, 3000), (72, 56))])
def test_images_work_at_the_trained_area_in_whole_latents(
    caller: Callable[..., Caller], size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert caller("sd_inpaint").plan(size, 4, None, None).size == expected


def test_equal_settings_are_equal_plans(caller: Callable[..., Caller]) -> None:
    sd = caller("sd_inpaint")
    same = [sd.plan((128, 96), 4, 6.0, None), sd.plan((256, 192), 4, 6.0, None)]
    assert same[0] == same[1]
    assert sd.plan((128, 96), 5, 6.0, None) != same[0] != sd.plan((96, 128), 4, 6.0, None)
