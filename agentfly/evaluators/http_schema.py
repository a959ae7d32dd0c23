"""The JSON of an evaluation over HTTP, for client and server. Images are PNG in base64, never paths or URLs.

docs/evaluator_protocol.md documents it for other programs, docs/evaluator.schema.json is `json_schema()`.
"""

from __future__ import annotations

import contextlib
import json
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agentfly.errors import ImageError
from agentfly.evaluators.base import EditSample, Score
from agentfly.images import ImageLimits, from_base64, read_mask, to_base64

FORMAT = "agentfly.evaluator/1"  # grows with optional fields only; anything else is another version, below /v2
PATH, SLEEP_PATH, WAKE_PATH, SCHEMA_PATH = "/v1/evaluate", "/v1/sleep", "/v1/wake", "/v1/schema"
HEALTH_PATH = "/health"


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_no_truth)]


class SampleBody(BaseModel):
    """A sample as it is sent; `metadata` is any JSON object."""

    model_config = ConfigDict(extra="forbid")

    instruction: str = Field(description="The request to the agent.")
    source: str = Field(description="The image before, a PNG or another image file in base64.")
    result: str | None = Field(None, description="The image after; null where there is none.")
    target: str | None = Field(None, description="The wanted image, where it is known.")
    mask: str | None = Field(None, description="The pixels that must change, white, where they are known.")
    metadata: dict[str, object] = Field(
        default_factory=dict, description="Further data of the task that some evaluators need."
    )


class ScoreBody(BaseModel):
    """A score as it is sent back; values out of range are refused."""

    model_config = ConfigDict(extra="forbid")

    # Limits behind a validator would not reach the JSON schema.
    value: Annotated[
        float,
        Field(allow_inf_nan=False, ge=0, le=100, description="0 (useless) to 100 (as wanted)."),
        BeforeValidator(_no_truth),
    ]
    feedback: str = Field("", description="One or two sentences of reasons.")
    aspects: dict[str, Number] = Field(default_factory=dict, description="Named parts of the score, each 0 to 1.")

    def score(self) -> Score:
        """Return the score without the checks of JSON."""
        return Score(self.value, self.feedback, self.aspects)


class ErrorBody(BaseModel):
    """The body of every status but 200."""

    class Error(BaseModel):
        """The reason, for people."""

        message: str

    error: Error


def json_schema() -> dict[str, object]:
    """Return the JSON schema of the protocol: `request`, `response` and `error`, each a schema of one body."""
    bodies: dict[str, type[BaseModel]] = {"request": SampleBody, "response": ScoreBody, "error": ErrorBody}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": FORMAT,
        "title": f"POST {PATH}",
        "$defs": {
            name: body.model_json_schema(ref_template=f"#/$defs/{name}/$defs/{{model}}")
            for name, body in bodies.items()
        },
    }


def to_body(sample: EditSample) -> dict[str, object]:
    """Return a sample as JSON; metadata that JSON does not know is left out."""
    images = {"source": sample.source, "result": sample.result, "target": sample.target, "mask": sample.mask}
    metadata: dict[str, object] = {}
    for name, value in sample.metadata.items():
        with contextlib.suppress(TypeError, ValueError):
            metadata[str(name)] = json.loads(json.dumps(value, allow_nan=False))
    return {
        "instruction": sample.instruction,
        **{name: None if image is None else to_base64(image) for name, image in images.items()},
        "metadata": metadata,
    }


def from_body(body: SampleBody, limits: ImageLimits) -> EditSample:
    """Return the sample of a body.

    Args:
        body: the JSON.
        limits: of each image.

    Raises:
        ImageError: an image is no base64 of an image, or too large, or the mask is none; the message names the field.
    """
    texts = {"source": body.source, "result": body.result, "target": body.target, "mask": body.mask}
    images = {}
    for name, text in texts.items():
        try:
            if text is not None:
                image = from_base64(text, limits)
                images[name] = read_mask(image).image if name == "mask" else image
        except ImageError as fault:
            raise ImageError(f"{name}: {fault}") from fault
    return EditSample(
        instruction=body.instruction,
        source=images["source"],
        result=images.get("result"),
        target=images.get("target"),
        mask=images.get("mask"),
        metadata=body.metadata,
    )
