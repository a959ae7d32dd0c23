"""Editing and inpainting by OpenAI's images API, or by any vendor that litellm's `image_edit` reaches.

The API takes an image, a mask and a prompt. A negative prompt becomes a sentence of the prompt. Seeds, steps and
guidance scales are sent only to servers that take them (`send_settings`), since OpenAI refuses unknown fields.
Its masks are transparent where the image may change, ours are white there.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image
from pydantic import Field

from agentfly.errors import ConfigError, ImageError, ToolError, require
from agentfly.images import encode_image, on_white
from agentfly.openai_client import Endpoint, SdkClient
from agentfly.openai_compat import check_answer
from agentfly.settings import Settings
from agentfly.vision.base import MOST_IMAGES, EditParams, InpaintParams, given_params
from agentfly.vision.compositing import paste_back, restored, solid
from agentfly.vision.image_replies import decode_image, first_image

if TYPE_CHECKING:
    import openai
    from openai.types import ImagesResponse

_File = tuple[str, bytes, str]


class ImagesSettings(Settings):
    """The model of an images API, and its address.

    Attributes:
        model: the vendor's name of the model; None leaves it to the service.
        endpoint: address of the server; editing takes long, so its timeout is ten minutes.
        send_settings: send seed, negative prompt, steps and scales as fields of their own. Our image server and others
            like it take them; OpenAI does not.
        fields: further fields of the request, e.g. {"quality": "high", "size": "1024x1024"}.
        removal_prompt: prompt of the request when an inpainting prompt is empty.
    """

    model: str | None = None
    endpoint: Endpoint = Endpoint(timeout=600.0)
    send_settings: bool = False
    fields: Mapping[str, object] = Field(default_factory=dict)
    removal_prompt: str = "Remove what is in the masked area and fill it with background."


class OpenAIImages:
    """An editor and an inpainter behind `/v1/images/edits`.

    Args:
        settings: the model and its address.
        client: an OpenAI client to use instead of one made from the settings.

    Attributes:
        max_images: images of an edit at most; the first one is edited.
    """

    max_images = MOST_IMAGES

    def __init__(self, settings: ImagesSettings, client: openai.AsyncOpenAI | None = None) -> None:
        self.settings = settings
        self.name = settings.model or "openai"
        self._client = SdkClient(settings.endpoint, client)

    def check_key(self) -> None:
        """See `ServiceEngine`."""
        self.settings.endpoint.key()

    async def edit(self, image: Image.Image, instruction: str, params: EditParams) -> Image.Image:
        """Return the edited image (RGB), same size; see `Editor`.

        Raises:
            ToolError: the vendor refuses the request, does not answer, or sends no image.
            ConfigError: the key or the model is refused.
        """
        return await self.edit_images((image,), instruction, params)

    async def edit_images(self, images: Sequence[Image.Image], instruction: str, params: EditParams) -> Image.Image:
        """Return the first image edited (RGB), same size, with the others as references; see `MultiImageEditor`.

        Raises:
            ToolError: the vendor refuses the request, does not answer, or sends no image.
            ConfigError: the key or the model is refused.
        """
        edited = await self._request(images, None, instruction, params)
        return await asyncio.to_thread(restored, edited, images[0].size)

    async def inpaint(self, image: Image.Image, mask: Image.Image, prompt: str, params: InpaintParams) -> Image.Image:
        """Return the image with the masked part repainted; see `Inpainter`. Pixels where the mask is 0 stay exact.

        Raises:
            ToolError: mask and image differ in size, the vendor refuses the request, or sends no image.
            ConfigError: the key or the model is refused.
        """
        if mask.size != image.size:
            raise ToolError(f"the mask is {mask.width}x{mask.height} but the image {image.width}x{image.height}")
        grey = mask.convert("L")
        painted = await self._request((image,), grey, prompt.strip() or self.settings.removal_prompt, params)
        return await asyncio.to_thread(paste_back, image, painted, grey)

    async def _request(
        self, images: Sequence[Image.Image], mask: Image.Image | None, prompt: str, params: EditParams | InpaintParams
    ) -> Image.Image:
        given = given_params(params)
        arguments: dict[str, Any] = dict(self.settings.fields)
        if self.settings.model is not None:
            arguments["model"] = self.settings.model
        if self.settings.send_settings:
            arguments["extra_body"] = {**arguments.get("extra_body", {}), **given}
        elif params.negative_prompt:
            prompt = f"{prompt}\nAvoid: {params.negative_prompt}"
        # One at a time: the PNG of a large image takes a second and much memory.
        files = [await asyncio.to_thread(_png_file, image, "image.png") for image in images]
        arguments["image"] = files if len(files) > 1 else files[0]
        if mask is not None:
            # The API's mask is the image itself, transparent where it may change.
            marked = on_white(images[0]).copy()
            marked.putalpha(solid(mask).point(lambda value: 255 - value))
            arguments["mask"] = await asyncio.to_thread(_png_file, marked, "mask.png")
        with self._client.translated_faults(f"the image model {self.name}"):
            reply = await self._send({"prompt": prompt, **arguments})
            check_answer(reply)
        text = first_image(reply)
        if text is None and not hasattr(reply, "data"):
            raise ToolError(f"the image model {self.name} sent no list of images: check that base_url ends in /v1")
        if text is None:
            raise ToolError(f"the image model {self.name} sent no image: use another prompt")
        try:
            return (await asyncio.to_thread(decode_image, text))[0]
        except ImageError as fault:
            raise ToolError(f"the image model {self.name} sent an image that cannot be read: {fault}") from fault

    async def _send(self, arguments: Mapping[str, Any]) -> ImagesResponse:
        return await self._client.get().images.edit(**arguments)


class LiteLLMImages(OpenAIImages):
    """An editor and an inpainter through litellm, whose model names carry their vendor ("vertex_ai/...", "azure/...").

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

    async def _send(self, arguments: Mapping[str, Any]) -> ImagesResponse:
        litellm = importlib.import_module("litellm")
        place = self.settings.endpoint
        # litellm names the files itself, and cannot send one that has a name already.
        image, mask = arguments["image"], arguments.get("mask")
        files = {"image": [content for _, content, _ in image] if isinstance(image, list) else image[1]}
        if mask is not None:
            files["mask"] = mask[1]
        return await litellm.aimage_edit(
            **{**arguments, **files},
            api_base=place.base_url,
            # Vendors have keys of their own, which litellm reads from the environment.
            api_key=place.api_key.get_secret_value() if place.api_key else None,
            timeout=place.timeout,
        )


def _png_file(image: Image.Image, name: str) -> _File:
    return name, encode_image(image), "image/png"
