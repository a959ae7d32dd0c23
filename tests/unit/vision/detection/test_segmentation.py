"""Masks from tiny SAM and SAM 2 checkpoints, and detections whose masks come from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from agentfly.errors import ConfigError
from agentfly.vision.base import Detection, Detections
from agentfly.vision.detection.boxes import box_mask
from agentfly.vision.detection.segmentation import SamSegmenter, SamSettings, SegmentedDetector

pytestmark = pytest.mark.slow

Checkpoint = Callable[[str], str]
BOXES = [(10, 10, 60, 50), (70, 5, 120, 90)]

pytest.importorskip("torch")


@pytest.fixture(scope="module", params=["sam", "sam2"])
def segmenter(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> SamSegmenter:
    return SamSegmenter(SamSettings(model=checkpoint(request.param), device="cpu"))


class FixedDetector:
    name = "fixed"

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Detections:
        found = [Detection(prompt, 0.9 - 0.1 * i, box, box_mask(box, image.size)) for i, box in enumerate(BOXES)]
        return Detections(found, best_rejected=0.1)


class FixedSegmenter(SamSegmenter):
    """Gives the masks it is told to give."""

    def __init__(self, masks: list[Image.Image]) -> None:
        self.name = "fixed masks"
        self.masks = masks

    async def segment(self, image: Image.Image, boxes: object) -> list[Image.Image]:
        return self.masks


async def test_a_mask_for_each_box_of_the_size_of_the_image(segmenter: SamSegmenter, noise: Image.Image) -> None:
    masks = await segmenter.segment(noise, BOXES)
    assert [(mask.size, mask.mode) for mask in masks] == [((128, 96), "L")] * 2
    assert set(np.unique([np.asarray(mask) for mask in masks])) == {0, 255}
    assert masks[0].tobytes() != masks[1].tobytes()


async def test_masks_do_not_depend_on_the_other_boxes(segmenter: SamSegmenter, noise: Image.Image) -> None:
    both, second = await segmenter.segment(noise, BOXES), await segmenter.segment(noise, BOXES[1:])
    assert both[1].tobytes() == second[0].tobytes()


async def test_no_box_needs_no_model(checkpoint: Checkpoint, noise: Image.Image) -> None:
    segmenter = SamSegmenter(SamSettings(model=checkpoint("sam"), device="cpu"))
    assert await segmenter.segment(noise, []) == []
    assert segmenter._loaded is None


async def test_detections_get_outlines_inside_their_boxes(noise: Image.Image) -> None:
    everywhere, nowhere = Image.new("L", noise.size, 255), Image.new("L", noise.size, 0)
    everywhere.paste(0, (10, 10, 30, 50))
    detector = SegmentedDetector(FixedDetector(), FixedSegmenter([everywhere, nowhere]))
    found = await detector.detect(noise, "cat", box_threshold=0.3, text_threshold=0.3)
    assert found[0].mask.getbbox() == (30, 10, 60, 50)
    assert found[1].mask.getbbox() == BOXES[1]
    assert [one.box for one in found] == BOXES
    assert (detector.name, found.best_rejected) == ("fixed + fixed masks", 0.1)


def test_another_kind_of_model_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="is a grounding-dino model: give a SAM"):
        SamSegmenter(SamSettings(model=checkpoint("grounding_dino"), device="cpu")).load()
