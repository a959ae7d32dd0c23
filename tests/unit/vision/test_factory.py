"""Engines from configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.errors import ConfigError
from agentfly.vision import Engines, make_engines
from agentfly.vision.base import EditParams, InpaintParams
from agentfly.vision.cached_engines import CachedEditor
from agentfly.vision.detection.grounding_dino import GroundingDinoDetector
from agentfly.vision.detection.segmentation import SegmentedDetector
from agentfly.vision.detection.vlm_detector import VlmDetector
from agentfly.vision.diffusion import DiffusionEditor, DiffusionInpainter, EditorSettings
from agentfly.vision.factory import check_keys, read_engines, version_of
from agentfly.vision.model_runtime import ModelSettings
from agentfly.vision.openai_images import OpenAIImages

Checkpoint = Callable[[str], str]


@pytest.mark.parametrize("spec", [None, "classical", {}, {"editor": {"engine": "classical"}}])
async def test_the_default_finds_removes_and_edits_without_a_model(spec: Any, scene: Image.Image) -> None:
    engines = make_engines(spec)
    words, thresholds = "red circle", {"box_threshold": 0.6, "text_threshold": 0.25}
    (found,) = await engines.detector.detect(scene, words, **thresholds)
    removed = await engines.inpainter.inpaint(scene, found.mask, "background", InpaintParams())
    assert list(await engines.detector.detect(removed, words, **thresholds)) == []
    darker = await engines.editor.edit(scene, "darken it", EditParams())
    assert np.asarray(darker).mean() < np.asarray(scene).mean() - 5


def test_engines_pass_as_they_are() -> None:
    engines = make_engines("classical")
    assert make_engines(engines) is engines


@pytest.mark.slow
def test_models_are_the_documented_ones_and_nothing_is_loaded_yet() -> None:
    pytest.importorskip("diffusers")
    engines = make_engines("models")
    assert [engines.detector.name, engines.inpainter.name, engines.editor.name] == [
        "IDEA-Research/grounding-dino-base",
        "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
        "Qwen/Qwen-Image-Edit",
    ]
    assert isinstance(engines.inpainter, DiffusionInpainter)
    assert not engines.inpainter.weights._templates


def test_each_engine_takes_its_own_settings() -> None:
    pytest.importorskip("diffusers")
    engines = make_engines(
        {
            "detector": {"engine": "vlm", "model": "policy", "endpoint": {"base_url": "http://localhost:1/v1"}},
            "inpainter": {"engine": "openai", "model": "image-model", "send_settings": True},
            "editor": {
                "engine": "diffusion",
                "model": "Qwen/Qwen-Image-Edit-2511",
                "use_ultra_fast": True,
                "device": "cpu",
            },
        }
    )
    assert isinstance(engines.detector, VlmDetector)
    assert engines.detector.settings.endpoint.base_url == "http://localhost:1/v1"
    assert isinstance(engines.inpainter, OpenAIImages)
    assert engines.inpainter.settings.send_settings
    assert isinstance(engines.editor, DiffusionEditor)
    assert engines.editor.name == "Qwen/Qwen-Image-Edit-2511 lightning-4"


@pytest.mark.parametrize(
    ("masks", "model"), [(True, "facebook/sam-vit-base"), ("a/b", "a/b"), ({"model": "c/d"}, "c/d")]
)
def test_masks_come_from_sam_when_asked(masks: Any, model: str) -> None:
    pytest.importorskip("transformers")
    detector = make_engines({"detector": {"engine": "grounding-dino", "masks": masks}}).detector
    assert isinstance(detector, SegmentedDetector)
    assert isinstance(detector.detector, GroundingDinoDetector)
    assert detector.segmenter.settings.model == model


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("model", "unknown engines 'model'. Did you mean 'models'"),
        ({"detectr": "classical"}, "Did you mean 'detector'"),
        ({"detector": "grounding-dno"}, "unknown detector 'grounding-dno'. Did you mean 'grounding-dino'"),
        ({"editor": {"model": "x"}}, "editor is a mapping without 'engine'"),
        ({"editor": {"engine": "diffusion", "stepz": 3}}, "Did you mean 'steps'"),
        ({"editor": {"engine": "diffusion", "steps": 0}}, "steps: Input should be greater"),
        ({"editor": {"engine": "classical", "model": "x"}}, "the classical engines have no settings: leave out model"),
        ({"cache": {"rot": "x"}}, "cache"),
    ],
)
def test_what_is_wrong_is_named(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_engines(spec)


async def test_a_cache_goes_in_front_and_is_shared_through_its_folder(tmp_path: Path, plain: Image.Image) -> None:
    spec = {"cache": {"root": str(tmp_path)}}
    first, second = make_engines(spec), make_engines(spec)
    assert isinstance(first.editor, CachedEditor)
    images = [await engines.editor.edit(plain, "blur it", EditParams()) for engines in (first, second)]
    assert images[0].tobytes() == images[1].tobytes()
    assert len(list(tmp_path.glob("??/*.json"))) == 1


@pytest.mark.slow
async def test_models_of_one_configuration_work_together(
    checkpoint: Checkpoint, tmp_path: Path, noise: Image.Image, soft_mask: Image.Image
) -> None:
    pytest.importorskip("diffusers")
    small = {"engine": "diffusion", "device": "cpu", "area": 64 * 64, "steps": 2, "model": checkpoint("qwen_edit")}
    engines = make_engines(
        {
            "detector": {
                "engine": "grounding-dino",
                "model": checkpoint("mm_grounding_dino"),
                "device": "cpu",
                "masks": {"model": checkpoint("sam2"), "device": "cpu"},
            },
            "inpainter": small,
            "editor": small,
            "cache": {"root": str(tmp_path)},
        }
    )
    assert isinstance(engines, Engines)
    found = await engines.detector.detect(noise, "cat", box_threshold=0.0, text_threshold=0.0)
    painted = await engines.inpainter.inpaint(noise, found[0].mask, "dog", InpaintParams(seed=1))
    edited = await engines.editor.edit(painted, "red", EditParams(seed=1))
    assert edited.size == noise.size
    inner = [engines.inpainter.engine.weights, engines.editor.engine.weights]  # type: ignore[attr-defined]
    assert inner[0] is inner[1]


def test_a_version_changes_with_settings_and_files_and_not_with_the_place(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    def settings(**changed: Any) -> EditorSettings:
        return EditorSettings(**{"model": str(tmp_path), "steps": 4, **changed})

    (tmp_path / "weights").write_bytes(b"one")
    version = version_of(settings())
    assert version_of(settings(device="cpu", max_batch=1, concurrency=3, max_images=2)) == version
    assert version_of(settings(steps=5)) != version
    os.utime(tmp_path / "weights", (1, 1))
    assert version_of(settings()) != version


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("classical", "classical"),
        ("openai:image-model", "openai:image-model"),
        ('{"editor": "openai"}', {"editor": "openai"}),
        ("FOLDER/engines.yaml", {"editor": "classical"}),
        ("FOLDER/engines.json", {"editor": "openai"}),
    ],
)
def test_an_option_names_engines_by_name_json_or_file(text: str, spec: Any, tmp_path: Path) -> None:
    (tmp_path / "engines.yaml").write_text("editor: classical")
    (tmp_path / "engines.json").write_text('{"editor": "openai"}')
    assert read_engines(text.replace("FOLDER", str(tmp_path))) == spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{editor: openai}", "--engine is not valid JSON"),
        ("nowhere.yaml", "cannot read the file of --engine 'nowhere.yaml': No such file or directory"),
        ("FOLDER/list.yaml", "is no mapping of engines"),
        ("FOLDER/broken.yaml", "is not valid YAML"),
    ],
)
def test_an_option_that_names_no_engines_is_told(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- classical")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=words):
        read_engines(text.replace("FOLDER", str(tmp_path)))


def test_openai_edits_and_inpaints_and_leaves_the_model_to_the_service_unless_told() -> None:
    engines = make_engines("openai")
    assert [engines.detector.name, engines.inpainter.name, engines.editor.name] == ["classical", "openai", "openai"]
    assert make_engines("openai:image-model").editor.name == "image-model"


@pytest.mark.parametrize(
    "spec",
    [
        "openai",
        {"detector": {"engine": "vlm", "model": "m"}},
        {"editor": {"engine": "openai", "endpoint": {"api_key_env": "OPENAI_API_KEY"}}, "cache": {"root": "c"}},
    ],
)
def test_a_key_that_an_engine_lacks_is_named_before_it_is_asked(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="set OPENAI_API_KEY"):
        check_keys(spec)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    check_keys(spec)
    check_keys("classical")
    check_keys(make_engines("openai"))


class _NoModel(ModelSettings):
    model: str = ""


def test_a_version_without_a_model_does_not_depend_on_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = version_of(_NoModel())
    (tmp_path / "a.txt").write_text("a")
    assert version_of(_NoModel()) == before
