"""Few-step editing: the LoRA is really in the weights, the scheduler is its own, and there is no guidance."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from agentfly.errors import ConfigError
from agentfly.vision.base import EditParams
from agentfly.vision.diffusion import DiffusionEditor, Weights, WeightSettings
from agentfly.vision.diffusion.lightning import published_lora
from tests.unit.vision.diffusion.conftest import Calls, difference

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

Make = Callable[..., DiffusionEditor]
Checkpoint = Callable[[str], str]


@pytest.fixture(scope="module")
def lora(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> str:
    from tests.tiny.qwen_image import lightning_lora

    return str(lightning_lora(tmp_path_factory.mktemp("lora") / "fast.safetensors", Path(checkpoint("qwen_edit"))))


@pytest.mark.parametrize(("flags", "steps"), [({"use_fast": True}, 8), ({"use_ultra_fast": True}, 4)])
async def test_fast_editing_takes_its_own_steps_and_no_guidance_whatever_is_asked(
    editor: Make, lora: str, noise: Image.Image, calls: Calls, flags: dict[str, bool], steps: int
) -> None:
    engine = editor("qwen_edit", lightning_lora=lora, **flags)
    edited = await engine.edit(noise, "red", EditParams("blur", 6.0, 75, 1))
    given = calls.arguments[0]
    assert (given["num_inference_steps"], given["true_cfg_scale"]) == (steps, 1.0)
    assert "negative_prompt" not in given
    assert edited.size == noise.size
    assert engine.name.endswith(f" lightning-{steps}")


def test_the_lora_is_added_to_the_weights_and_gone_as_a_lora(checkpoint: Checkpoint, lora: str) -> None:
    from safetensors.torch import load_file

    plain = Weights(WeightSettings(model=checkpoint("qwen_edit"), device="cpu")).template("edit")
    fast = Weights(
        WeightSettings(model=checkpoint("qwen_edit"), device="cpu", use_fast=True, lightning_lora=lora)
    ).template("edit")
    name = "transformer_blocks.0.attn.to_q"
    tensors = load_file(lora)
    added = tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"]
    weight = "transformer_blocks.0.attn.to_q.weight"
    difference_of_weights = fast.transformer.state_dict()[weight] - plain.transformer.state_dict()[weight]
    assert torch.allclose(difference_of_weights, added, atol=1e-4)
    assert fast.transformer.state_dict().keys() == plain.transformer.state_dict().keys()


def test_the_scheduler_is_the_one_of_the_distillation(checkpoint: Checkpoint, lora: str) -> None:
    weights = Weights(WeightSettings(model=checkpoint("qwen_edit"), device="cpu", use_fast=True, lightning_lora=lora))
    with weights.fresh("edit") as pipeline:
        scheduler = pipeline.scheduler
        assert (scheduler.config.base_shift, scheduler.config.max_shift) == (math.log(3), math.log(3))
        assert scheduler.config.use_dynamic_shifting
        # A shift by 3 takes the noise level 1/2 to 3/4.
        scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=math.log(3))
        assert scheduler.sigmas.tolist() == pytest.approx([1.0, 0.75, 0.0])


async def test_an_ordinary_lora_changes_the_image_and_keeps_the_settings(
    editor: Make, lora: str, noise: Image.Image, calls: Calls
) -> None:
    params = EditParams(None, 3.0, 2, 1)
    plain = await editor("qwen_edit").edit(noise, "red", params)
    changed = await editor("qwen_edit", lora=lora).edit(noise, "red", params)
    assert difference(plain, changed) > 0
    assert [given["num_inference_steps"] for given in calls.arguments] == [2, 2]


@pytest.mark.parametrize(
    ("model", "steps", "expected"),
    [
        ("Qwen/Qwen-Image-Edit", 8, "lightx2v/Qwen-Image-Lightning:Qwen-Image-Edit-Lightning-8steps"),
        ("Qwen/Qwen-Image-Edit-2509", 4, "lightx2v/Qwen-Image-Lightning:Qwen-Image-Edit-2509/Qwen-Image-Edit-2509-L"),
        ("Qwen/Qwen-Image-Edit-2511", 4, "lightx2v/Qwen-Image-Edit-2511-Lightning:Qwen-Image-Edit-2511-Lightning-4s"),
    ],
)
def test_each_checkpoint_has_its_own_published_lora(model: str, steps: int, expected: str) -> None:
    assert published_lora(model, steps).startswith(expected)


def test_what_does_not_fit_is_refused_with_the_fix(checkpoint: Checkpoint, lora: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    def load(name: str, **settings: object) -> None:
        Weights(WeightSettings(model=checkpoint(name), device="cpu", **settings)).template("edit")

    with pytest.raises(ConfigError, match="use_fast is the Lightning LoRA of Qwen-Image"):
        load("instruct_pix2pix", use_fast=True, lightning_lora=lora)
    with pytest.raises(ConfigError, match="there is no file"):
        load("qwen_edit", use_fast=True, lightning_lora="/nowhere/fast.safetensors")
    with pytest.raises(ConfigError, match="name repository and file"):
        load("qwen_edit", use_fast=True, lightning_lora="owner/repository")
    save_file({"unet.other.lora_A.weight": torch.zeros(2, 4)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="LoRA"):
        load("qwen_edit", lora=str(tmp_path / "other.safetensors"))
