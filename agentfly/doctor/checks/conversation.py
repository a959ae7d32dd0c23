"""A conversation to test templates, parsers and endpoints: images in tool turns, unusual arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from agentfly.messages import ImagePart, Message, TextPart, ToolCall, text_message

# One below the smallest size of a processor, one of a usual photograph's shape.
IMAGES: Mapping[str, tuple[int, int]] = {"img_small": (40, 32), "img_large": (640, 480)}
BEFORE, AFTER = "before the image", "after the image"
CALL = ToolCall(
    "call_0", "auto_inpaint_image", {"image_id": "img_1", "prompt": 'a "red" café\n{x}', "box_threshold": 0.35}
)
SCHEMA: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "auto_inpaint_image",
        "description": "Repaint what a text names.",
        "parameters": {
            "type": "object",
            "properties": {
                "image_id": {"type": "string"},
                "prompt": {"type": "string"},
                "box_threshold": {"type": "number"},
            },
            "required": ["image_id", "prompt"],
        },
    },
}
ASK = Message("user", (ImagePart("img_large"), TextPart("Which one?")))
SAID = text_message("assistant", "I look.")
RESULT = Message("tool", (TextPart(BEFORE), ImagePart("img_small"), TextPart(AFTER)), tool_call_id="call_0")
SECOND = Message("tool", (TextPart("a second result"),), tool_call_id="call_1")


def load(handle: str) -> Image.Image:
    """Return the image of a handle of this conversation."""
    return Image.new("RGB", IMAGES[handle], (120, 90, 60))
