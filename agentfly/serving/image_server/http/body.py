"""The body of a request, JSON or form: its fields, with the names of OpenAI and diffusers, and its images.

Names, ranges and defaults of the fields are the same in JSON and in forms.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, ParamSpec, Protocol, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from agentfly.errors import unknown_name
from agentfly.serving.errors import RequestRefused
from agentfly.serving.image_server.http.images import Source
from agentfly.serving.image_server.settings import UploadLimits
from agentfly.serving.request_data import HeldMemory, is_text, parse_json

# OpenAI's own fields that mean nothing to the models behind this server; clients send them by habit.
IGNORED = frozenset(
    ("background", "input_fidelity", "model", "moderation", "output_compression", "quality", "style", "user")
)
# Each broken form would be a line in the log, and its sender is told.
logging.getLogger("python_multipart").setLevel(logging.ERROR)
_IMAGE = re.compile(r"(images?|mask)(?:\[\d{0,3}\])?")
_MOST_FIELDS = 64
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


class _Fields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: str = ""
    timeout: float | None = Field(None, gt=0, description="Seconds; the server's own limit without it.")


class DetectionFields(_Fields):
    """Fields of `/v1/detections`."""

    box_threshold: float = Field(0.35, ge=0, le=1)
    text_threshold: float = Field(0.25, ge=0, le=1)
    masks: bool = Field(True, description="Send a PNG mask with every object.")


class ResultFields(_Fields):
    """Fields of the endpoints that make images."""

    n: int = Field(1, ge=1, description="Results, of seeds seed, seed + 1, ...")
    size: str | None = Field(None, description="WIDTHxHEIGHT, or auto.")
    seed: int | None = Field(None, ge=0, le=2**32 - 1, description="A random one without it; the reply names it.")
    negative_prompt: str | None = None
    num_inference_steps: int | None = Field(None, ge=1)
    guidance_scale: float | None = Field(None, ge=0, le=100)
    true_cfg_scale: float | None = Field(None, ge=0, le=100)
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    stream: Literal[False] = False
    partial_images: Literal[0] = 0


class EditFields(ResultFields):
    """Fields of `/v1/images/edits`."""

    strength: float | None = Field(None, gt=0, le=1)


class GenerationFields(ResultFields):
    """Fields of `/v1/images/generations`."""


F = TypeVar("F", bound=_Fields)
P = ParamSpec("P")
T = TypeVar("T")


class InThread(Protocol):
    """A way to call a function in a thread."""

    def __call__(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Return its result."""
        ...


@dataclass
class Body:
    """The contents of a request.

    Attributes:
        fields: everything that is not an image.
        images: images, not decoded yet; those of `images` come after those of `image`.
        mask: the mask, not decoded yet.
        is_json: True if it came as JSON, for which the documented clients expect another reply.
    """

    fields: dict[str, object] = field(default_factory=dict)
    images: list[Source] = field(default_factory=list)
    mask: Source | None = None
    is_json: bool = False

    def add(self, kind: str, source: Source) -> None:
        """Add an image, or the mask.

        Raises:
            RequestRefused: it is a second mask.
        """
        if kind == "image":
            self.images.append(source)
        elif self.mask is None:
            self.mask = source
        else:
            raise RequestRefused("send one mask: there is one for the first image alone", param="mask")


async def read_body(request: Request, limits: UploadLimits, in_thread: InThread, held: HeldMemory) -> Body:
    """Return the body of a request.

    Args:
        request: the request.
        limits: set by the operator.
        in_thread: calls a function off the event loop.
        held: memory of the request, which has the bytes of the body already.

    Raises:
        RequestRefused: neither JSON nor a form, broken, or with too many parts.
        ServerFault: there is no memory to read it, for now.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        body = await in_thread(_parse, _read_json, await _read_bytes(request), held)
    elif kind == "application/x-www-form-urlencoded":
        body = _sort(await in_thread(_parse, partial(_read_urlencoded, limits), await _read_bytes(request), held))
    elif kind == "multipart/form-data":
        body = _sort(await _read_form(request, limits))
    else:
        raise RequestRefused("send application/json or multipart/form-data", status=415)
    for name, value in body.fields.items():
        if not is_text(name) or (isinstance(value, str) and not is_text(value)):
            raise RequestRefused("names and values of fields are Unicode texts: this one has half of a surrogate pair")
    return body


async def _read_bytes(request: Request) -> bytearray:
    # `request.body` would keep the bytes as long as the request lives.
    data = bytearray()
    async for part in request.stream():
        data += part
    return data


def _parse(read: Callable[[bytearray], T], data: bytearray, held: HeldMemory) -> T:
    # The text of all, and the texts of its values; one in a form is unescaped.
    with held.during(3 * len(data)):
        return read(data)


def _read_json(data: bytearray) -> Body:
    try:
        content = parse_json(data)
    except (ValueError, RecursionError) as fault:
        raise RequestRefused("the body is not valid JSON") from fault
    if not isinstance(content, Mapping):
        raise RequestRefused("the body is not a JSON object")
    body = Body(is_json=True)
    for name, value in sorted(content.items(), key=_is_further):
        kind = _image_kind(name)
        if kind is None:
            body.fields[name] = value
            continue
        for source in value if isinstance(value, list) and kind == "image" else [value]:
            if source is not None:
                body.add(kind, _require_text(source, kind))
    return body


def _require_text(source: object, param: str) -> str:
    if not isinstance(source, str):
        raise RequestRefused(f"{param} is a text in JSON: base64 or a data URI", param=param)
    return source


def _read_urlencoded(limits: UploadLimits, data: bytearray) -> list[tuple[str, Source]]:
    # Base64 has an escape in about every 20 characters, a prompt up to four in each. Many more take long to decode, and
    # much memory.
    if data.count(b"%") > 1_000 + 8 * limits.prompt_characters + len(data) // 8:
        raise RequestRefused("the form cannot be read: send multipart/form-data")
    try:
        return [*parse_qsl(data.decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)]
    except ValueError as fault:
        raise RequestRefused(f"the form cannot be read: {fault}") from fault


async def _read_form(request: Request, limits: UploadLimits) -> list[tuple[str, Source]]:
    try:
        async with request.form(
            max_files=limits.images + 1, max_fields=_MOST_FIELDS, max_part_size=limits.body_bytes
        ) as form:
            return [
                (name, await value.read() if isinstance(value, UploadFile) else value)
                for name, value in form.multi_items()
            ]
    except HTTPException as fault:
        raise RequestRefused(f"the form cannot be read: {fault.detail}") from fault


def _sort(form: Iterable[tuple[str, Source]]) -> Body:
    """Return a form as a body; it may number its images, as `image[0]`."""
    body = Body()
    for name, source in sorted(form, key=_is_further):
        kind = _image_kind(name)
        if kind is not None:
            body.add(kind, source)
        elif isinstance(source, bytes):
            raise RequestRefused(f"{name[:64]} is not a file: images go into image and mask", param=name[:64])
        else:
            body.fields[name] = source
    return body


def _image_kind(name: str) -> str | None:
    match = _IMAGE.fullmatch(name)
    return match[1].removesuffix("s") if match else None


def _is_further(item: tuple[str, object]) -> bool:
    """Return True for an image of `images`: members of a JSON object have no order, and `image` is the first."""
    return item[0].startswith("images")


def read_fields(kind: type[F], sent: Mapping[str, object], limits: UploadLimits) -> F:
    """Return the checked fields of a request.

    Args:
        kind: of request.
        sent: names and values, which are texts in a form. Empty texts and None count as absent.
        limits: set by the operator.

    Raises:
        RequestRefused: a field is unknown, of the wrong type or out of its range. The message never quotes the value.
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
    negative = fields.negative_prompt if isinstance(fields, ResultFields) else None
    if max(len(fields.prompt), len(negative or "")) > limits.prompt_characters:
        raise RequestRefused(f"prompts have {limits.prompt_characters} characters at most", param="prompt")
    if isinstance(fields, ResultFields):
        if fields.n > limits.outputs:
            raise RequestRefused(f"n is {limits.outputs} at most", param="n")
        if (fields.num_inference_steps or 0) > limits.steps:
            raise RequestRefused(f"num_inference_steps is {limits.steps} at most", param="num_inference_steps")
        read_size(fields.size, limits)
    return fields


def read_size(text: str | None, limits: UploadLimits) -> tuple[int, int] | None:
    """Return width and height in pixels, or None for "auto".

    Raises:
        RequestRefused: `text` is not of the form WIDTHxHEIGHT, or the size is too large.
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
