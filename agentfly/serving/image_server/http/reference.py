"""Describe the request bodies for `/docs`. The endpoints read them themselves, so FastAPI cannot know them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

_FILE = {"type": "string", "format": "binary"}
_TEXT = {"type": "string", "description": "base64 or a data URI"}


def describe(fields: type[BaseModel], *, pictures: bool, mask: bool) -> dict[str, Any]:
    """`openapi_extra` of an endpoint: its fields, as JSON and, where it takes pictures, as a form."""
    schema = fields.model_json_schema()
    forms = {"application/json": _with(schema, _TEXT, pictures, mask)}
    if pictures:
        forms["multipart/form-data"] = _with(schema, _FILE, pictures, mask)
    return {"requestBody": {"required": True, "content": {kind: {"schema": form} for kind, form in forms.items()}}}


def _with(schema: dict[str, Any], picture: dict[str, Any], pictures: bool, mask: bool) -> dict[str, Any]:
    extra = {"image": picture} if pictures else {}
    if mask:
        extra["mask"] = picture
    required = ["prompt", "image"] if pictures else ["prompt"]
    return {**schema, "properties": {**extra, **schema["properties"]}, "required": required}
