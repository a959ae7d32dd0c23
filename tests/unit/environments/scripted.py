"""Turns of a policy that edits stickers, in OpenAI's form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any


def call(name: str, number: int = 0, **arguments: object) -> dict[str, Any]:
    """Return an assistant message with one tool call."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}],
    }


def answer(image: str, number: int = 0) -> dict[str, Any]:
    """Return the message that ends a conversation with an image."""
    return call("give_answer", number, final_image_id=image, description="done")


def next_turn(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the turn of a policy that removes the sticker of a task of family "named", and then answers."""
    number = sum(message["role"] == "assistant" for message in messages)
    if number:
        return answer("img_2", number)
    [asked] = [message for message in messages if message["role"] == "user"]
    words = "".join(part.get("text", "") for part in asked["content"])
    found = re.search(r"the (\w+ \w+)", words)
    assert found is not None, words
    return call("auto_inpaint_image", number, image_id="img_1", detect_prompt=found[1], prompt="", auto_mask_dilate=4)
