"""The requests of each kind of server: paths, names of fields, and the part of a mask that means "change".

Our own server, vllm-omni, sglang and OpenAI all serve `POST /v1/images/edits` as a form, and differ in the rest. sglang
takes a mask and ignores it, so it is never asked to inpaint.

"edit_images" is an edit with further images as references. OpenAI's models take them. Behind vllm-omni and sglang it
depends on the model, which they do not report: `NodeConfig.operations` may add it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from PIL import Image

from agentfly.errors import ImageError
from agentfly.images import encode_image, read_mask
from agentfly.vision.base import Detection, Detections
from agentfly.vision.detection.boxes import box_mask, clip_box
from agentfly.vision.image_replies import decode_image, first_image

Operation = Literal["edit", "inpaint", "detect", "edit_images"]
OPERATIONS: tuple[Operation, ...] = ("edit", "inpaint", "detect", "edit_images")
MaskStyle = Literal["white", "transparent"]


class BadReply(Exception):
    """A server answered 200 with a body that is no answer."""


@dataclass(frozen=True)
class Call:
    """One request of an engine, before it takes the form of a kind of server.

    Attributes:
        operation: of the request.
        prompt: the prompt or instruction.
        image: PNG of the image.
        size: width and height of the image in pixels.
        mask: mode L, white = change; for "inpaint".
        fields: the other settings by our own names; those left out are left to the server.
        references: PNG of the further images; for "edit_images".
    """

    operation: Operation
    prompt: str
    image: bytes
    size: tuple[int, int]
    mask: Image.Image | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    references: tuple[bytes, ...] = ()


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
        name: its name in `NodeConfig.adapter`.
        owner: `owned_by` of its models, by which it is recognised.
        operations: the operations that it supports; `NodeConfig.operations` may name fewer or more.
        fields: its names of settings by ours. Settings that are not here are not sent.
        mask_field: name of the mask.
        images_field: name of each image where there are several.
        mask_style: the part of the mask that changes.
        health: path of its health check; None where there is none.
        takes_timeout: True if it accepts the time that the client waits.
    """

    name: str
    owner: str
    operations: frozenset[Operation]
    fields: Mapping[str, str]
    mask_field: str = "mask"
    images_field: str = "image"
    mask_style: MaskStyle = "white"
    health: str | None = "/health"
    takes_timeout: bool = False

    def form(self, call: Call, model: str | None, timeout: float) -> Form:
        """Return the request for a call.

        Args:
            call: the request in our own form.
            model: name of the model for the server; None sends none.
            timeout: seconds that the client waits, for servers that take it.
        """
        data = {"prompt": call.prompt}
        data |= {theirs: str(call.fields[ours]) for ours, theirs in self.fields.items() if ours in call.fields}
        if model is not None:
            data["model"] = model
        if self.takes_timeout:
            data["timeout"] = f"{timeout:.3f}"
        name = self.images_field if call.references else "image"
        files = [(name, ("image.png", image, "image/png")) for image in (call.image, *call.references)]
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
                # Inpainting depends on its model, which it does not report: `NodeConfig.operations` may add it.
                frozenset(("edit",)),
                {**_DIFFUSION, "guidance_scale": "guidance_scale"},
                mask_field="mask_image",
            ),
            Adapter("sglang", "sglang", frozenset(("edit",)), {**_DIFFUSION, "guidance_scale": "guidance_scale"}),
            Adapter(
                "openai",
                "openai",
                frozenset(("edit", "inpaint", "edit_images")),
                {},
                images_field="image[]",
                mask_style="transparent",
                health=None,
            ),
        )
    }
)


def adapter_of(models: Mapping[str, object]) -> Adapter | None:
    """Return the kind of server that answers `/v1/models` with this; None where it does not tell."""
    listed = models.get("data", ())
    entries = listed if isinstance(listed, Sequence) else ()
    owners = {str(model.get("owned_by")) for model in entries if isinstance(model, Mapping)}
    return next((adapter for adapter in ADAPTERS.values() if adapter.owner in owners), None)


def encode_mask(mask: Image.Image, style: MaskStyle) -> bytes:
    """Return a mask as PNG in a server's own style.

    Args:
        mask: mode L, white = change.
        style: the part of the server's masks that changes.
    """
    if style == "white":
        return encode_image(mask)
    return encode_image(Image.merge("RGBA", (mask, mask, mask, mask.point(lambda value: 255 - value))))


def read_image(content: bytes) -> Image.Image:
    """Return the image of a reply of `/v1/images/edits`.

    Raises:
        BadReply: the reply has none.
    """
    text = first_image(_read_json(content))
    try:
        return _decode(text or "")
    except ImageError as fault:
        raise BadReply(f"its reply has no image in data[0].b64_json ({fault})") from fault


def read_detections(content: bytes, size: tuple[int, int]) -> Detections:
    """Return the objects of a reply of `/v1/detections`; the mask of an object without one is its box.

    An object whose box is outside of the image is left out.

    Args:
        content: the body of the reply.
        size: width and height of the image in pixels.

    Raises:
        BadReply: the reply has another form, or objects of which none is on the image.
    """
    reply = _read_json(content)
    try:
        best = reply.get("best_rejected")
        read = [_read_detection(item, size) for item in reply["data"]]
        found = [detection for detection in read if detection is not None]
        if read and not found:
            raise ValueError("all boxes are outside of the image")
        return Detections(found, best_rejected=None if best is None else _read_score(best))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as fault:
        raise BadReply(f"its reply is no list of objects ({type(fault).__name__})") from fault


def _read_detection(item: Mapping[str, Any], size: tuple[int, int]) -> Detection | None:
    x0, y0, x1, y1 = (float(value) for value in item["box"])
    box = clip_box((x0, y0, x1, y1), size)
    if box is None:
        return None
    mask = read_mask(_decode(item["mask"])).image if item.get("mask") else box_mask(box, size)
    if mask.size != size:
        raise ValueError("the mask has another size than the image")
    return Detection(str(item["label"]), _read_score(item["score"]), box, mask)


def _read_score(value: Any) -> float:
    score = float(value)
    if not math.isfinite(score):
        raise ValueError("the score is no finite number")
    return score


def _decode(text: str) -> Image.Image:
    # An address is not followed: a node is asked for its own image, within the time of one request.
    if text.lstrip()[:5].lower() in ("http:", "https"):
        raise ImageError("an address in place of an image")
    return decode_image(text)[0]


def _read_json(content: bytes) -> Mapping[str, Any]:
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError) as fault:
        raise BadReply("its reply is no JSON") from fault
    if not isinstance(reply, Mapping):
        raise BadReply("its reply is no JSON object")
    return reply
