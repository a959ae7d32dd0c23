"""An editing task: an instruction for one or more images, with the target and mask if they are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentfly.images import ImageSource


@dataclass(frozen=True)
class EditTask:
    """An instruction on one or more images.

    Attributes:
        id: unique within its data set.
        instruction: what the user asks for.
        images: sources of the images (path, URL, bytes, PIL, ...), the one to edit first.
        target: the wanted result, where it is known.
        mask: where the image must change (white), where it is known; same size as the first image.
        task_type: family for tables, e.g. "named" or "look".
        metadata: anything else, JSON-able.
    """

    id: str
    instruction: str
    images: tuple[ImageSource, ...]
    target: ImageSource | None = None
    mask: ImageSource | None = None
    task_type: str = "edit"
    metadata: Mapping[str, Any] = field(default_factory=dict)
