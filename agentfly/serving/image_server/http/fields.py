"""The fields of requests, the same in JSON and in forms: names as in OpenAI and diffusers, ranges, defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentfly.errors import unknown_name
from agentfly.serving.image_server.errors import RequestRefused
from agentfly.serving.image_server.settings import UploadLimits

# OpenAI's own fields that mean nothing to the models behind this server; clients send them by habit.
IGNORED = frozenset(
    ("background", "input_fidelity", "model", "moderation", "output_compression", "quality", "style", "user")
)
IMAGES = frozenset(("image", "image[]", "mask"))

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


class _Fields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: str = ""
    timeout: float | None = Field(None, gt=0, description="Seconds; the server's own limit without it.")


class DetectionFields(_Fields):
    """`/v1/detections`."""

    box_threshold: float = Field(0.35, ge=0, le=1)
    text_threshold: float = Field(0.25, ge=0, le=1)
    masks: bool = Field(True, description="Send a PNG mask with every object.")


class _Making(_Fields):
    n: int = Field(1, ge=1, description="Results, of seeds seed, seed + 1, ...")
    size: str | None = Field(None, description="WIDTHxHEIGHT, or auto.")
    seed: int | None = Field(None, ge=0, le=2**32 - 1, description="A random one without it; the reply tells.")
    negative_prompt: str | None = None
    num_inference_steps: int | None = Field(None, ge=1)
    guidance_scale: float | None = Field(None, ge=0, le=100)
    true_cfg_scale: float | None = Field(None, ge=0, le=100)
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    stream: Literal[False] = False
    partial_images: Literal[0] = 0


class EditFields(_Making):
    """`/v1/images/edits`."""

    strength: float | None = Field(None, gt=0, le=1)


class GenerationFields(_Making):
    """`/v1/images/generations`."""


F = TypeVar("F", bound=_Fields)


def read_fields(kind: type[F], sent: Mapping[str, Any], limits: UploadLimits) -> F:
    """Checked fields of a request.

    Args:
        kind: which request.
        sent: names and values, texts where they come from a form. Empty texts and None are as good as absent.
        limits: the operator's bounds.

    Raises:
        RequestRefused: a field is unknown, of the wrong type or out of its range; the message never quotes the value.
    """
    given = {name: value for name, value in sent.items() if name not in IGNORED and value is not None and value != ""}
    for name in given:
        if name not in kind.model_fields:
            raise RequestRefused(unknown_name("field", name[:64], kind.model_fields), param=name[:64])
    try:
        fields = kind.model_validate(given)
    except ValidationError as fault:
        first = fault.errors(include_input=False, include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise RequestRefused(f"{name}: {first['msg']}", param=name) from None
    _check(fields, limits)
    return fields


def _check(fields: _Fields, limits: UploadLimits) -> None:
    negative = fields.negative_prompt if isinstance(fields, _Making) else None
    if max(len(fields.prompt), len(negative or "")) > limits.prompt_characters:
        raise RequestRefused(f"prompts have {limits.prompt_characters} characters at most", param="prompt")
    if isinstance(fields, _Making):
        if fields.n > limits.outputs:
            raise RequestRefused(f"n is {limits.outputs} at most", param="n")
        if (fields.num_inference_steps or 0) > limits.steps:
            raise RequestRefused(f"num_inference_steps is {limits.steps} at most", param="num_inference_steps")
        read_size(fields.size, limits)


def read_size(text: str | None, limits: UploadLimits) -> tuple[int, int] | None:
    """Width and height; None for "auto".

    Raises:
        RequestRefused: not of the form WIDTHxHEIGHT, or too large.
    """
    if text is None or text == "auto":
        return None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise RequestRefused("size is WIDTHxHEIGHT, such as 1024x1024, or auto", param="size")
    width, height = int(match[1]), int(match[2])
    if not 8 <= min(width, height) <= max(width, height) <= limits.output_side:
        raise RequestRefused(f"the sides of size are from 8 to {limits.output_side}", param="size")
    return width, height
