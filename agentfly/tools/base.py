"""The result of a tool: text and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ToolResult:
    """The observation that a tool returns to the model.

    Attributes:
        text: the observation in words; it names every image of `images`.
        images: handles of the images that the model should see, in the order they are named.
        engine: the engine that did the work ("classical", a model name, ...); empty where none is involved.
        final: True if the agent is done with this call (`give_answer`); `images[-1]`, if any, is its answer.
        data: machine-readable details (boxes, scores, parameters used), JSON-able.
        ids: short names of `images`, where a person called the tool; a model reads them in the text.
    """

    text: str
    images: tuple[str, ...] = ()
    engine: str = ""
    final: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)
    ids: tuple[str, ...] = ()
