"""The requests of each kind of server: paths, names of fields, and which part of a mask means "change".

Our own server, vllm-omni, sglang and OpenAI all serve `POST /v1/images/edits` as a form, and differ in the rest. sglang
takes a mask and ignores it, so it is never asked to inpaint.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from types import MappingProxyType
from typing import Any, Literal

from PIL import Image

from agentfly.errors import ImageError
from agentfly.images.load import ImageLimits, load_image
from agentfly.vision.base import Detection, Detections

Operation = Literal["edit", "inpaint", "detect"]
OPERATIONS: tuple[Operation, ...] = ("edit", "inpaint", "detect")
MaskStyle = Literal["white", "transparent"]

_REPLY_LIMITS = ImageLimits(allow_files=False)


class BadReply(Exception):
    """A server answered 200 with something that is no answer."""


@dataclass(frozen=True)
class Call:
    """One request of an engine, in our own words.

    Attributes:
        image: PNG of the image.
        size: of the image.
        mask: mode L, white = change; for "inpaint".
        fields: the rest by our own names; what is None is left to the server.
    """

    operation: Operation
    prompt: str
    image: bytes
    size: tuple[int, int]
    mask: Image.Image | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """A multipart request."""

    path: str
    data: dict[str, str]
    files: list[tuple[str, tuple[str, bytes, str]]]


@dataclass(frozen=True)
class Adapter:
    """One kind of server.

    Attributes:
        name: what `NodeConfig.adapter` calls it.
        owner: `owned_by` of its models, by which it is recognised.
        operations: what it can do at all; a node may be told to be asked for less or more.
        fields: our names of settings, and its own. What is not here is not sent.
        mask_field: name of the mask.
        mask_style: which part of the mask changes.
        health: path that says whether it is well; None where there is none.
        takes_timeout: whether it accepts how long the client waits.
    """

    name: str
    owner: str
    operations: frozenset[Operation]
    fields: Mapping[str, str]
    mask_field: str = "mask"
    mask_style: MaskStyle = "white"
    health: str | None = "/health"
    takes_timeout: bool = False

    def form(self, call: Call, model: str | None, timeout: float) -> Form:
        """The request for a call."""
        data = {"prompt": call.prompt}
        data |= {theirs: str(call.fields[ours]) for ours, theirs in self.fields.items() if ours in call.fields}
        if model is not None:
            data["model"] = model
        if self.takes_timeout:
            data["timeout"] = f"{timeout:.3f}"
        files = [("image", ("image.png", call.image, "image/png"))]
        if call.mask is not None:
            files.append((self.mask_field, ("mask.png", encode_mask(call.mask, self.mask_style), "image/png")))
        path = "/v1/detections" if call.operation == "detect" else "/v1/images/edits"
        return Form(path, data, files)


_DIFFUSION = {name: name for name in ("negative_prompt", "true_cfg_scale", "num_inference_steps", "seed")}

ADAPTERS: Mapping[str, Adapter] = MappingProxyType(
    {
        adapter.name: adapter
        for adapter in (
            Adapter(
                "agentfly",
                "agentfly",
                frozenset(OPERATIONS),
                {
                    **_DIFFUSION,
                    "guidance_scale": "guidance_scale",
                    "strength": "strength",
                    "box_threshold": "box_threshold",
                    "text_threshold": "text_threshold",
                },
                takes_timeout=True,
            ),
            Adapter(
                "vllm-omni",
                "vllm",
                # Whether it inpaints depends on its model, which it does not tell: `NodeConfig.operations` may add it.
                frozenset(("edit",)),
                {**_DIFFUSION, "guidance_scale": "guidance_scale"},
                mask_field="mask_image",
            ),
            Adapter("sglang", "sglang", frozenset(("edit",)), {**_DIFFUSION, "guidance_scale": "guidance_scale"}),
            Adapter("openai", "openai", frozenset(("edit", "inpaint")), {}, mask_style="transparent", health=None),
        )
    }
)


def adapter_of(models: Mapping[str, Any]) -> Adapter | None:
    """The kind of server whose `/v1/models` this is; None where it does not tell."""
    owners = {str(model.get("owned_by")) for model in models.get("data", ())}
    return next((adapter for adapter in ADAPTERS.values() if adapter.owner in owners), None)


def encode_png(image: Image.Image) -> bytes:
    """An image as PNG, compressed as fast as it can be."""
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def encode_mask(mask: Image.Image, style: MaskStyle) -> bytes:
    """A mask (mode L, white = change) as PNG in a server's own style."""
    if style == "white":
        return encode_png(mask)
    rgba = Image.merge("RGBA", (mask, mask, mask, mask.point(lambda value: 255 - value)))
    return encode_png(rgba)


def read_image(content: bytes) -> Image.Image:
    """The image of a reply of `/v1/images/edits`.

    Raises:
        BadReply: it has none.
    """
    reply = _json(content)
    try:
        return load_image(base64.b64decode(reply["data"][0]["b64_json"]), _REPLY_LIMITS)
    except (KeyError, IndexError, TypeError, binascii.Error, ImageError) as fault:
        raise BadReply(f"its reply has no image in data[0].b64_json ({fault})") from fault


def read_detections(content: bytes, size: tuple[int, int]) -> Detections:
    """The objects of a reply of `/v1/detections`; a box is the mask of an object without one.

    Raises:
        BadReply: it is of another form.
    """
    reply = _json(content)
    try:
        found = [_detection(item, size) for item in reply["data"]]
        return Detections(found, best_rejected=reply.get("best_rejected"))
    except (KeyError, TypeError, ValueError) as fault:
        raise BadReply(f"its reply is no list of objects ({type(fault).__name__})") from fault


def _detection(item: Mapping[str, Any], size: tuple[int, int]) -> Detection:
    x0, y0, x1, y1 = (int(value) for value in item["box"])
    if item.get("mask"):
        mask = load_image(base64.b64decode(item["mask"]), _REPLY_LIMITS).convert("L")
    else:
        mask = Image.new("L", size, 0)
        mask.paste(255, (x0, y0, x1, y1))
    return Detection(str(item["label"]), float(item["score"]), (x0, y0, x1, y1), mask)


def _json(content: bytes) -> Mapping[str, Any]:
    try:
        reply = json.loads(content)
    except ValueError as fault:
        raise BadReply("its reply is no JSON") from fault
    if not isinstance(reply, Mapping):
        raise BadReply("its reply is no JSON object")
    return reply
