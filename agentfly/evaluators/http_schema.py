"""The JSON of an evaluation over HTTP, for client and server alike. Images are PNG in base64, never paths or URLs."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from agentfly.errors import ImageError
from agentfly.evaluators.base import EditSample, Score
from agentfly.images import ImageLimits, load_image

PATH = "/v1/evaluate"


class SampleBody(BaseModel):
    """A sample as it is sent; `metadata` is any JSON object."""

    model_config = ConfigDict(extra="forbid")

    instruction: str
    source: str
    result: str | None = None
    target: str | None = None
    mask: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class ScoreBody(BaseModel):
    """A score as it is sent back; values out of range are refused."""

    model_config = ConfigDict(extra="forbid")

    value: float = Field(ge=0, le=100, allow_inf_nan=False)
    feedback: str = ""
    aspects: dict[str, float] = Field(default_factory=dict)

    def score(self) -> Score:
        """The score."""
        return Score(self.value, self.feedback, self.aspects)


def to_body(sample: EditSample) -> dict[str, Any]:
    """A sample as JSON; metadata that JSON does not know is left out."""
    return {
        "instruction": sample.instruction,
        "source": _encoded(sample.source),
        **{name: _maybe(getattr(sample, name)) for name in ("result", "target", "mask")},
        "metadata": _plain(sample.metadata),
    }


def from_body(body: SampleBody, limits: ImageLimits) -> EditSample:
    """The sample of a body.

    Raises:
        ImageError: an image is no base64 of an image, or too large; the message names the field.
    """
    images = {name: _decoded(name, getattr(body, name), limits) for name in ("source", "result", "target", "mask")}
    source = images["source"]
    if source is None:
        raise ImageError("source: there is no image")
    return EditSample(
        instruction=body.instruction,
        source=source,
        result=images["result"],
        target=images["target"],
        mask=images["mask"],
        metadata=body.metadata,
    )


def _encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def _maybe(image: Image.Image | None) -> str | None:
    return None if image is None else _encoded(image)


def _decoded(name: str, text: str | None, limits: ImageLimits) -> Image.Image | None:
    if text is None:
        return None
    try:
        return load_image(base64.b64decode(text, validate=True), limits)
    except (binascii.Error, ValueError) as fault:
        raise ImageError(f"{name}: {fault}") from fault


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in metadata.items():
        try:
            kept[str(name)] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            continue
    return kept
