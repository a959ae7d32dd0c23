"""Loading by `model_index.json`, and pipelines of one call that share weights."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from agentfly.errors import ConfigError, MissingExtraError
from agentfly.vision.diffusion import Weights, WeightSettings
from agentfly.vision.diffusion.pipelines import Role, has_own_size, shared_weights, with_area

pytest.importorskip("diffusers")

pytestmark = pytest.mark.slow

Checkpoint = Callable[[str], str]


def weights(folder: str, **settings: object) -> Weights:
    return Weights(WeightSettings(model=folder, device="cpu", **settings))


@pytest.mark.parametrize(
    ("name", "role", "expected"),
    [
        ("sd_inpaint", "inpaint", "StableDiffusionInpaintPipeline"),
        ("sdxl_inpaint", "inpaint", "StableDiffusionXLInpaintPipeline"),
        ("sdxl", "inpaint", "StableDiffusionXLInpaintPipeline"),
        ("flux_fill", "inpaint", "FluxFillPipeline"),
        ("qwen_edit_inpaint", "inpaint", "QwenImageEditInpaintPipeline"),
        ("qwen_edit", "inpaint", "QwenImageEditInpaintPipeline"),
        ("qwen_edit", "edit", "QwenImageEditPipeline"),
        ("qwen_edit_plus", "edit", "QwenImageEditPlusPipeline"),
        ("flux_kontext", "edit", "FluxKontextPipeline"),
        ("instruct_pix2pix", "edit", "StableDiffusionInstructPix2PixPipeline"),
    ],
)
def test_the_class_is_the_one_of_the_checkpoint_or_its_sibling_for_the_role(
    checkpoint: Checkpoint, name: str, role: Role, expected: str
) -> None:
    assert type(weights(checkpoint(name)).template(role)).__name__ == expected


@pytest.mark.parametrize(
    ("name", "role", "message"),
    [
        ("sd_inpaint", "edit", "cannot edit: give an editing model, such as Qwen/Qwen-Image-Edit"),
        ("sdxl", "edit", "cannot edit"),
        ("instruct_pix2pix", "inpaint", "cannot inpaint: give an inpainting model"),
    ],
)
def test_a_checkpoint_that_cannot_do_it_is_refused_before_its_weights_are_read(
    checkpoint: Checkpoint, name: str, role: Role, message: str
) -> None:
    asked = weights(checkpoint(name))
    with pytest.raises(ConfigError, match=message):
        asked.template(role)
    assert asked._base is None


def test_folders_that_are_no_pipeline_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no model_index\.json"):
        weights(str(tmp_path))
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ConfigError, match="names no pipeline class"):
        weights(str(tmp_path)).template("edit")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "MadeUpPipeline"}))
    with pytest.raises(ConfigError, match="has no MadeUpPipeline"):
        weights(str(tmp_path)).template("edit")
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "QwenImageEditPipeline", "vae": ["diffusers", "X"]})
    )
    with pytest.raises(ConfigError, match="cannot load"):
        weights(str(tmp_path)).template("edit")


def test_without_diffusers_the_extra_is_named(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint("sd_inpaint")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"\[diffusion\]"):
        weights(folder)


def test_fresh_pipelines_share_weights_and_nothing_that_a_call_changes(checkpoint: Checkpoint) -> None:
    shared = weights(checkpoint("sd_inpaint"), concurrency=2)
    with shared.fresh("inpaint") as one, shared.fresh("inpaint") as two:
        assert one is not two
        assert one.unet is two.unet
        assert one.vae.decoder is two.vae.decoder
        assert one.scheduler is not two.scheduler
        assert type(one.scheduler) is type(two.scheduler)
        one.scheduler.set_timesteps(7)
        assert two.scheduler.timesteps is not one.scheduler.timesteps


def test_a_causal_vae_keeps_the_features_of_a_call_to_itself(checkpoint: Checkpoint) -> None:
    """Calls side by side decoded with features of each other, now and then, and gave other images."""
    shared = weights(checkpoint("qwen_edit"), concurrency=2)
    with shared.fresh("edit") as one, shared.fresh("edit") as two:
        one.vae.clear_cache()
        two.vae.clear_cache()
        one.vae._feat_map[0] = "features of the first call"
        assert two.vae._feat_map[0] is None
        assert next(one.vae.parameters()) is next(two.vae.parameters())


def test_no_more_calls_at_once_than_allowed(checkpoint: Checkpoint) -> None:
    shared = weights(checkpoint("sd_inpaint"))
    entered = threading.Event()

    def second() -> None:
        with shared.fresh("inpaint"):
            entered.set()

    thread = threading.Thread(target=second)
    with shared.fresh("inpaint"):
        thread.start()
        assert not entered.wait(0.05)
    assert entered.wait(5)
    thread.join()


def test_both_roles_of_a_checkpoint_use_one_copy_of_its_weights(checkpoint: Checkpoint) -> None:
    shared = weights(checkpoint("qwen_edit"), area=64 * 64)
    assert shared.template("edit").transformer is shared.template("inpaint").transformer


def test_a_pipeline_that_is_loaded_already_serves_both_roles_without_a_folder(checkpoint: Checkpoint) -> None:
    loaded = weights(checkpoint("qwen_edit")).template("edit")
    given = Weights(WeightSettings(model="my pipeline", device="cpu"), loaded)
    assert given.name == "my pipeline"
    assert given.template("edit").transformer is loaded.transformer
    assert type(given.template("inpaint")).__name__ == "QwenImageEditInpaintPipeline"


def test_equal_settings_share_weights_for_as_long_as_somebody_uses_them(checkpoint: Checkpoint) -> None:
    settings = WeightSettings(model=checkpoint("sd_inpaint"), device="cpu")
    one = shared_weights(settings)
    assert shared_weights(WeightSettings(model=checkpoint("sd_inpaint"), device="cpu")) is one
    assert shared_weights(WeightSettings(model=checkpoint("sd_inpaint"), device="cpu", dtype="bfloat16")) is not one
    left = weakref.ref(one)
    del one
    assert left() is None


def test_weights_have_the_type_asked_for(checkpoint: Checkpoint) -> None:
    import torch

    template = weights(checkpoint("sd_inpaint"), dtype="bfloat16").template("inpaint")
    assert {parameter.dtype for parameter in template.unet.parameters()} == {torch.bfloat16}


def test_compile_touches_the_repeated_blocks_of_the_denoiser(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    compiled = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: compiled.append((type(self).__name__, options))
    )
    weights(checkpoint("qwen_edit"), compile=True).template("edit")
    assert compiled == [("QwenImageTransformerBlock", {"dynamic": True})] * 2


def test_settings_that_contradict_each_other_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="concurrency=1"):
        WeightSettings(model="m", offload="model", concurrency=2)
    with pytest.raises(ConfigError, match="offload='none'"):
        WeightSettings(model="m", offload="sequential", device="cpu")
    with pytest.raises(ConfigError, match="Did you mean 'use_fast'"):
        WeightSettings(model="m", use_fats=True)  # type: ignore[call-arg]  # mistyped
    # The VAE of SDXL goes to float32 and back within a call.
    with pytest.raises(ConfigError, match="changes its type within a call"):
        weights(checkpoint("sdxl_inpaint"), concurrency=2, dtype="bfloat16").template("inpaint")


def test_offload_is_handed_to_the_pipeline(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from diffusers import DiffusionPipeline

    placed = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for kind in ("model", "sequential"):
        monkeypatch.setattr(
            DiffusionPipeline,
            f"enable_{kind}_cpu_offload",
            lambda self, *, device, kind=kind: placed.append((kind, device)),
        )
    for kind in ("model", "sequential"):
        settings = WeightSettings(model=checkpoint("qwen_edit"), device="cuda:1", offload=kind, dtype="float32")
        Weights(settings).template("edit")
    assert placed == [("model", "cuda:1"), ("sequential", "cuda:1")]


def test_area_changes_one_class_and_leaves_the_original_alone() -> None:
    from diffusers import QwenImageEditPipeline, QwenImageEditPlusPipeline, StableDiffusionInpaintPipeline
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as module

    assert has_own_size(QwenImageEditPipeline)
    assert has_own_size(QwenImageEditPlusPipeline)
    assert not has_own_size(StableDiffusionInpaintPipeline)
    smaller = with_area(QwenImageEditPipeline, 64 * 64)
    assert smaller.__call__.__globals__["calculate_dimensions"](1024 * 1024, 1.0)[:2] == (64, 64)
    # A side never vanishes, however long the image is.
    assert smaller.__call__.__globals__["calculate_dimensions"](1024 * 1024, 100.0)[1] == 32
    assert module.calculate_dimensions(1024 * 1024, 1.0)[:2] == (1024, 1024)
    assert smaller.__name__ == "QwenImageEditPipeline"
