"""Chains with images, made without a policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from PIL import Image

from agentfly.agents import StopReason, Trajectory
from agentfly.agents.trajectory import ToolRecord, Turn
from agentfly.images import ImageStore
from agentfly.messages import ImagePart, Message, TextPart
from agentfly.training.recording.recorder import Record


def noise(colour: int, side: int = 24) -> Image.Image:
    """An image that is not like another one, and that no compression makes much smaller."""
    return Image.effect_noise((side, side), 80).convert("RGB").point(lambda value: (value + colour) % 256)


def record(
    name: str,
    *,
    step: int = 1,
    row: int = 0,
    validate: bool = False,
    instruction: str = "Make it blue.",
    side: int = 24,
    tool: dict[str, Any] | None = None,
    **changes: Any,
) -> Record:
    """A chain with a source and a result; `changes` are fields of the trajectory."""
    store = ImageStore()
    source, result = (store.put(noise(colour, side)) for colour in (row, hash(name) % 255))
    call = ToolRecord(**{"name": "edit", "arguments": {}, "seconds": 0.1, "images": (result,), **(tool or {})})
    trajectory = Trajectory(
        id=name,
        group_id=f"step-{step}-row-{row}",
        messages=[Message("user", (ImagePart(source), TextPart(instruction))), Message("assistant", (TextPart("ok"),))],
        turns=[Turn("ok", "stop", 0.1, (call,))],
        images=[source, result],
        names={"img_1": source, "img_2": result},
        stop_reason=StopReason.ANSWERED,
        final_image=result,
        reward=0.5,
        score=50.0,
    )
    return Record(replace(trajectory, **changes), store, step, row, validate)
