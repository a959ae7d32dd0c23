"""Editing and inpainting by OpenAI's images API, or by any vendor that litellm's `image_edit` reaches.

The API knows an image, a mask and a prompt. A negative prompt becomes a sentence of the prompt; seeds, steps and
guidance scales are sent only to servers that take them (`send_settings`), for OpenAI refuses what it does not know.
Its masks are transparent where the image may change, ours are white there.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import io
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from PIL import Image
from pydantic import Field

from agentfly.errors import ConfigError, ImageError, ToolError, require
from agentfly.images import load_image
from agentfly.openai_client import Endpoint, SdkClient
from agentfly.settings import Settings
from agentfly.vision.base import EditParams, InpaintParams
from agentfly.vision.compositing import paste_back, restored, solid

if TYPE_CHECKING:
    import openai

_File = tuple[str, bytes, str]


class ImagesSettings(Settings):
    """Which model, and where.

    Attributes:
        model: name of the model, as the vendor calls it; None leaves it to the service.
        endpoint: where the server is; editing takes long, so its timeout is ten minutes.
        send_settings: send seed, negative prompt, steps and scales as fields of their own. Our image server and its
            like take them; OpenAI does not.
        fields: further fields of the request, e.g. {"quality": "high", "size": "1024x1024"}.
        removal_prompt: what to ask for when an inpainting prompt is empty.
    """

    model: str | None = None
    endpoint: Endpoint = Endpoint(timeout=600.0)
    send_settings: bool = False
    fields: Mapping[str, Any] = Field(default_factory=dict)
    removal_prompt: str = "Remove what is in the masked area and fill it with background."


class OpenAIImages:
    """An editor and an inpainter behind `/v1/images/edits`.

    Args:
        settings: which model, and where.
        client: an OpenAI client to use instead of one made from the settings.
    """

    def __init__(self, settings: ImagesSettings, client: openai.AsyncOpenAI | None = None) -> None:
        self.settings = settings
        self.name = settings.model or "openai"
        self._client = SdkClient(settings.endpoint, client)

    def check_key(self) -> None:
        """See `ServiceEngine`."""
        self.settings.endpoint.key()

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        """The edited image (RGB), same size.

        Raises:
            ToolError: the vendor refuses the request, does not answer, or sends no image.
            ConfigError: the key or the model is refused.
        """
        edited = await self._request(image, None, instruction, params)
        return await asyncio.to_thread(restored, edited, image.size)

    async def inpaint(self, image: Image.Image, mask: Image.Image, prompt: str, params: InpaintParams) -> Image.Image:
        """The image with the masked part repainted; pixels where the mask is 0 are exactly the source's.

        Raises:
            ToolError: mask and image differ in size, the vendor refuses the request, or sends no image.
            ConfigError: the key or the model is refused.
        """
        if mask.size != image.size:
            raise ToolError(f"the mask is {mask.width}x{mask.height} but the image {image.width}x{image.height}")
        grey = mask.convert("L")
        painted = await self._request(image, grey, prompt.strip() or self.settings.removal_prompt, params)
        return await asyncio.to_thread(paste_back, image, painted, grey)

    async def _request(
        self, image: Image.Image, mask: Image.Image | None, prompt: str, params: EditParams | InpaintParams
    ) -> Image.Image:
        given = {name: value for name, value in asdict(params).items() if value is not None}
        arguments: dict[str, Any] = dict(self.settings.fields)
        if self.settings.model is not None:
            arguments["model"] = self.settings.model
        if self.settings.send_settings:
            arguments["extra_body"] = {**arguments.get("extra_body", {}), **given}
        elif params.negative_prompt:
            prompt = f"{prompt}\nAvoid: {params.negative_prompt}"
        arguments["image"] = await asyncio.to_thread(_png, image, "image.png")
        if mask is not None:
            arguments["mask"] = await asyncio.to_thread(_mask_file, image, mask)
        with self._client.translated_faults(f"the image model {self.name}"):
            reply = await self._send(prompt=prompt, **arguments)
        return await asyncio.to_thread(self._image, reply)

    async def _send(self, **arguments: Any) -> Any:
        return await self._client.get().images.edit(**arguments)

    def _image(self, reply: Any) -> Image.Image:
        first = reply.data[0] if reply.data else None
        source = first and (base64.b64decode(first.b64_json) if first.b64_json else first.url)
        if not source:
            raise ToolError(f"the image model {self.name} sent no image: use another prompt")
        try:
            return load_image(source)
        except ImageError as fault:
            raise ToolError(f"the image model {self.name} sent an image that cannot be read: {fault}") from fault


class LiteLLMImages(OpenAIImages):
    """The same through litellm, whose model names carry their vendor ("vertex_ai/...", "azure/...").

    Raises:
        ConfigError: there is no model.
        MissingExtraError: litellm is not installed.
    """

    def __init__(self, settings: ImagesSettings) -> None:
        require("litellm", "image editing by litellm", "litellm")
        if settings.model is None:
            raise ConfigError("litellm needs a model with its vendor: {'engine': 'litellm', 'model': 'VENDOR/NAME'}")
        super().__init__(settings)

    def check_key(self) -> None:
        """Leave it to litellm: each vendor has a variable of its own."""

    async def _send(self, **arguments: Any) -> Any:
        litellm = importlib.import_module("litellm")
        place = self.settings.endpoint
        return await litellm.aimage_edit(
            **arguments,
            api_base=place.base_url,
            # Vendors have keys of their own, which litellm reads from the environment.
            api_key=place.api_key.get_secret_value() if place.api_key else None,
            timeout=place.timeout,
        )


def _png(image: Image.Image, name: str) -> _File:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return name, buffer.getvalue(), "image/png"


def _mask_file(image: Image.Image, mask: Image.Image) -> _File:
    """The mask as the API wants it: the image itself, transparent where it may change."""
    marked = image.convert("RGB")
    marked.putalpha(solid(mask).point(lambda value: 255 - value))
    return _png(marked, "mask.png")
