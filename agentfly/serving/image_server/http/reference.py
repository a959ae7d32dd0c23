"""Describe the request bodies for `/docs`. The endpoints read them themselves, so FastAPI cannot know them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

_FILE = {"type": "string", "format": "binary"}
_TEXT = {"type": "string", "description": "base64 or a data URI"}


def describe(fields: type[BaseModel], *, images: bool, mask: bool) -> dict[str, Any]:
    """`openapi_extra` of an endpoint: its fields, as JSON and, where it takes images, as a form."""
    schema = fields.model_json_schema()
    forms = {"application/json": _with(schema, _TEXT, images, mask)}
    if images:
        forms["multipart/form-data"] = _with(schema, _FILE, images, mask)
    return {"requestBody": {"required": True, "content": {kind: {"schema": form} for kind, form in forms.items()}}}


def _with(schema: dict[str, Any], image: dict[str, Any], images: bool, mask: bool) -> dict[str, Any]:
    extra = {"image": image} if images else {}
    if mask:
        extra["mask"] = image
    required = ["prompt", "image"] if images else ["prompt"]
    return {**schema, "properties": {**extra, **schema["properties"]}, "required": required}
