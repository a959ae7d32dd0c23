"""Drawings of detections: boxes with their labels and scores, on a copy of the image."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from agentfly.vision.base import Detection

# Hues far apart from each other, dark enough for white text.
_COLOURS = ((214, 39, 40), (31, 119, 180), (44, 140, 44), (148, 80, 180), (200, 95, 0), (0, 130, 140), (160, 40, 110))


def draw_detections(image: Image.Image, detections: Sequence[Detection]) -> Image.Image:
    """Return a copy of the image in RGB with each detection's box, label and score; one label has one colour.

    The best detection is drawn last, so that it lies on top.

    Args:
        image: any image.
        detections: on this image, best first.
    """
    canvas = image.convert("RGB")
    draw = ImageDraw.Draw(canvas)
    line = max(1, round(min(canvas.size) / 200))
    font = ImageFont.load_default(size=max(10, round(min(canvas.size) / 32)))
    labels = list(dict.fromkeys(detection.label for detection in detections))
    for detection in reversed(detections):
        colour = _COLOURS[labels.index(detection.label) % len(_COLOURS)]
        x0, y0, x1, y1 = detection.box
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=colour, width=line)
        # The label stands above its box, or inside where there is no room above.
        text = f"{detection.label} {detection.score:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = right - left + 4, bottom - top + 4
        x = max(0, min(x0, canvas.width - width))
        y = y0 - height if y0 >= height else y0
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
        draw.text((x + 2 - left, y + 2 - top), text, fill=(255, 255, 255), font=font)
    return canvas
