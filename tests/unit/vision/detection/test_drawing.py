"""The image of what was found."""

from __future__ import annotations

import numpy as np
from PIL import Image

from agentfly.vision import draw_detections
from agentfly.vision.base import Detection
from agentfly.vision.detection.boxes import box_mask


def detection(label: str, box: tuple[int, int, int, int]) -> Detection:
    return Detection(label, 0.5, box, box_mask(box, (200, 150)))


def test_boxes_are_drawn_on_a_copy_one_colour_a_label() -> None:
    source = Image.new("RGB", (200, 150), (10, 10, 10))
    drawn = draw_detections(
        source,
        [detection("cat", (20, 60, 80, 100)), detection("dog", (100, 60, 150, 120)), detection("cat", (0, 0, 9, 9))],
    )
    assert source.getcolors() == [(200 * 150, (10, 10, 10))]
    cat, dog = drawn.getpixel((20, 90)), drawn.getpixel((100, 90))
    assert cat != (10, 10, 10) != dog
    assert cat != dog
    assert drawn.getpixel((79, 99)) == cat
    assert drawn.getpixel((50, 80)) == (10, 10, 10)


def test_labels_stay_inside_the_image_at_its_edges() -> None:
    source = Image.new("RGB", (200, 150))
    drawn = np.asarray(draw_detections(source, [detection("a long label of many words", (150, 0, 200, 30))]))
    # The label is as wide as its words and ends at the right edge: it starts left of its box.
    assert drawn[2, :150].any()


def test_grey_and_transparent_images_come_out_as_rgb() -> None:
    for mode in ("L", "RGBA"):
        assert draw_detections(Image.new(mode, (200, 150)), [detection("x", (2, 2, 50, 50))]).mode == "RGB"
