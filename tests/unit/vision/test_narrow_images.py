"""The engines in this process take an image of one column or one row, or say that they cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from agentfly.errors import ConfigError, ToolError
from agentfly.vision.base import Detector, EditParams, InpaintParams
from agentfly.vision.classical import ClassicalDetector, ClassicalEditor, ClassicalInpainter
from agentfly.vision.detection.boxes import draw_detections
from agentfly.vision.detection.grounding_dino import GroundingDinoDetector, GroundingDinoSettings
from agentfly.vision.detection.segmentation import SamSegmenter, SamSettings
from agentfly.vision.diffusion import DiffusionEditor, DiffusionInpainter, EditorSettings, InpainterSettings
from agentfly.vision.model_runtime import shape_guard

pytestmark = pytest.mark.slow

SIZES = [(1, 400), (400, 1), (1, 1), (3, 2000), (30, 2)]
Checkpoint = Callable[[str], str]


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@contextmanager
def taken_or_refused() -> Iterator[None]:
    try:
        yield
    except ToolError as fault:
        words = str(fault)
        assert "too narrow; crop it, or give it a border" in words  # most engines take most of them


async def check_detector(detector: Detector, image: Image.Image, prompt: str) -> None:
    found = await detector.detect(image, prompt, box_threshold=0.0, text_threshold=0.0)
    assert all(one.mask.size == image.size for one in found)
    assert draw_detections(image, found).size == image.size


@pytest.mark.parametrize("size", SIZES)
async def test_classical_engines_take_it(size: tuple[int, int]) -> None:
    image, mask = noise(size), Image.new("L", size, 255)
    await check_detector(ClassicalDetector(), image, "red circle")
    edited = await ClassicalEditor().edit(image, "make it brighter", EditParams())
    painted = await ClassicalInpainter().inpaint(image, mask, "", InpaintParams())
    assert (edited.size, painted.size) == (size, size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["grounding_dino", "mm_grounding_dino"])
async def test_open_vocabulary_detectors_take_it(size: tuple[int, int], name: str, checkpoint: Checkpoint) -> None:
    detector = GroundingDinoDetector(GroundingDinoSettings(model=checkpoint(name), device="cpu"))
    with taken_or_refused():
        await check_detector(detector, noise(size), "cat. dog")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["sam", "sam2"])
async def test_segmenters_take_it(size: tuple[int, int], name: str, checkpoint: Checkpoint) -> None:
    segmenter = SamSegmenter(SamSettings(model=checkpoint(name), device="cpu"))
    with taken_or_refused():
        masks = await segmenter.segment(noise(size), [(0, 0, *size)])
        assert [mask.size for mask in masks] == [size]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["sd_inpaint", "qwen_edit_inpaint"])
async def test_diffusion_inpainters_take_it(size: tuple[int, int], name: str, checkpoint: Checkpoint) -> None:
    settings = InpainterSettings(model=checkpoint(name), device="cpu", area=64 * 64, steps=2)
    mask = Image.new("L", size, 255)
    with taken_or_refused():
        painted = await DiffusionInpainter(settings).inpaint(noise(size), mask, "x", InpaintParams())
        assert painted.size == size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["instruct_pix2pix", "qwen_edit"])
async def test_diffusion_editors_take_it(size: tuple[int, int], name: str, checkpoint: Checkpoint) -> None:
    settings = EditorSettings(model=checkpoint(name), device="cpu", area=64 * 64, steps=2)
    with taken_or_refused():
        edited = await DiffusionEditor(settings).edit(noise(size), "x", EditParams())
        assert edited.size == size


def test_a_fault_on_an_ordinary_shape_stays_a_bug() -> None:
    with pytest.raises(ValueError, match="a bug"), shape_guard("engine", Image.new("RGB", (70, 10))):
        raise ValueError("a bug")
    with pytest.raises(ConfigError), shape_guard("engine", Image.new("RGB", (700, 1))):
        raise ConfigError("another model")


def test_of_several_images_the_narrow_one_is_named() -> None:
    images = [Image.new("RGB", size) for size in ((64, 64), (3, 900))]
    with (
        pytest.raises(ToolError, match="engine cannot work on an image of 3x900 pixels"),
        shape_guard("engine", *images),
    ):
        raise ValueError("of a processor")
