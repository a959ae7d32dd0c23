"""Reading the body of a request, JSON or form, into fields and images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from agentfly.serving.image_server.errors import RequestRefused
from agentfly.serving.image_server.http.fields import IMAGES
from agentfly.serving.image_server.http.images import Source
from agentfly.serving.image_server.settings import UploadLimits

_MOST_FIELDS = 64


@dataclass
class Body:
    """What a request contains.

    Attributes:
        fields: everything that is not an image.
        images: images, not decoded yet.
        mask: the mask, not decoded yet.
        is_json: whether it came as JSON, which the documented clients expect another reply for.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    images: list[Source] = field(default_factory=list)
    mask: Source | None = None
    is_json: bool = False


async def read_body(request: Request, limits: UploadLimits) -> Body:
    """The body of a request.

    Raises:
        RequestRefused: neither JSON nor a form, broken, or with too many parts.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _from_json(await request.body())
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return await _from_form(request, limits)
    raise RequestRefused("send application/json or multipart/form-data", status=415)


def _from_json(data: bytes) -> Body:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as fault:
        raise RequestRefused("the body is not valid JSON") from fault
    if not isinstance(content, Mapping):
        raise RequestRefused("the body is not a JSON object")
    body = Body({name: value for name, value in content.items() if name not in IMAGES}, is_json=True)
    images = content.get("image", content.get("image[]"))
    for source in images if isinstance(images, list) else [images]:
        if source is not None:
            body.images.append(_text(source, "image"))
    if content.get("mask") is not None:
        body.mask = _text(content["mask"], "mask")
    return body


def _text(source: object, param: str) -> str:
    if not isinstance(source, str):
        raise RequestRefused(f"{param} is a text in JSON: base64 or a data URI", param=param)
    return source


async def _from_form(request: Request, limits: UploadLimits) -> Body:
    body = Body()
    try:
        async with request.form(
            max_files=limits.images + 1, max_fields=_MOST_FIELDS, max_part_size=limits.body_bytes
        ) as form:
            for name, value in form.multi_items():
                source = await value.read() if isinstance(value, UploadFile) else value
                if name in ("image", "image[]"):
                    body.images.append(source)
                elif name == "mask":
                    body.mask = source
                elif isinstance(source, bytes):
                    raise RequestRefused(f"{name[:64]} is not a file: images go into image and mask", param=name[:64])
                else:
                    body.fields[name] = source
    except HTTPException as fault:
        raise RequestRefused(f"the form cannot be read: {fault.detail}") from fault
    return body
