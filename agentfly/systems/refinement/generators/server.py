"""Images by an image server: from text at `/v1/images/generations`, from an image at `/v1/images/edits`.

Our servers say what they offer. A server that makes images from text only makes every image from text.
"""

from __future__ import annotations

import asyncio
import base64
import io
import logging
from collections.abc import Sequence
from typing import Any

from PIL import Image

from agentfly.errors import ConfigError, EngineUnavailable, ImageError, ToolError, first_line
from agentfly.images import load_image
from agentfly.openai_client import SdkClient
from agentfly.systems.refinement.generators.base import GeneratedImage, ImageRequest
from agentfly.systems.refinement.responses import service_faults
from agentfly.systems.refinement.settings import RefinementSettings
from agentfly.systems.refinement.usage import Usage

logger = logging.getLogger(__name__)

_BOTH = frozenset(("generate", "edit"))


class ServerGenerator:
    """Makes images on an image server.

    Args:
        settings: of the loop; `server_url` is where the server is.
    """

    def __init__(self, settings: RefinementSettings) -> None:
        self.name = "image server"
        self._settings = settings
        url = (settings.server_url or "").rstrip("/")
        self._url = url if url.endswith("/v1") else f"{url}/v1"
        self._sdk = SdkClient(settings.endpoint(self._url))
        self._model = ""
        self._offers: frozenset[str] | None = None
        self._ours = False

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """The image of a request; see `Generator`."""
        with service_faults(f"the image server {self._url}", self._settings.timeout):
            offers = self._offers if self._offers is not None else await self._ask_offers()
            start = [request.previous.image] if request.previous else list(request.references)
            if start and "edit" in offers:
                reply = await self._edit(start, request)
                if reply is not None:
                    return await asyncio.to_thread(_image, reply)
            if request.references and request.previous is None:
                raise EngineUnavailable(
                    "needs a server that edits: this one makes images from text only; leave the references out"
                )
            if "generate" not in offers:
                raise EngineUnavailable("this image server edits and makes none from text: give a reference image")
            reply = await self._sdk.get().images.generate(prompt=request.prompt, **self._fields(request))
        return await asyncio.to_thread(_image, reply)

    async def close(self) -> None:
        """Close the connections."""
        await self._sdk.close()

    async def _ask_offers(self) -> frozenset[str]:
        """Ask what the server offers; the first contact with it.

        Raises:
            ConfigError: nobody listens at the address, so that no iteration could make an image.
        """
        import openai

        try:
            models = (await self._sdk.get().models.list()).data
        except openai.APITimeoutError:
            raise
        except openai.APIConnectionError as fault:
            why = first_line(fault.__cause__ or fault)
            raise ConfigError(
                f"no image server at {self._url} ({why}): start it, or correct --server-url (server_url)"
            ) from None
        model = models[0] if models else None
        self._model = model.id if model is not None else "default"
        self._ours = model is not None and model.owned_by == "agentfly"
        self.name = f"image server ({self._model})"
        told = (model.model_extra or {}).get("capabilities") if model is not None and self._ours else None
        self._offers = frozenset(map(str, told)) if isinstance(told, list) else _BOTH
        return self._offers

    async def _edit(self, start: Sequence[Image.Image], request: ImageRequest) -> Any:
        """The server's reply; None from a server without editing, which goes on from text."""
        import openai

        files = [
            (f"image_{index}.png", await asyncio.to_thread(_png, image), "image/png")
            for index, image in enumerate(start)
        ]
        try:
            return await self._sdk.get().images.edit(
                image=files if len(files) > 1 else files[0], prompt=request.prompt, **self._fields(request)
            )
        except openai.NotFoundError:
            if self._ours:
                raise
            logger.warning("the image server has no /v1/images/edits: every image is made from text")
            self._offers = frozenset(("generate",))
            return None

    def _fields(self, request: ImageRequest) -> dict[str, Any]:
        settings, own = self._settings, {}
        if self._ours:
            own = {"num_inference_steps": settings.steps}
            if settings.seed is not None:
                own["seed"] = settings.seed + request.number - 1
        extra = {**{name: value for name, value in own.items() if value is not None}, **settings.server_fields}
        size = {} if settings.size == "auto" else {"size": settings.size}
        return {"model": self._model, **size, **({"extra_body": extra} if extra else {})}


def _image(reply: Any) -> GeneratedImage:
    first = reply.data[0] if reply.data else None
    if first is None or not (first.b64_json or first.url):
        raise ToolError("the image server sent no image: use another prompt")
    try:
        encoded = base64.b64decode(first.b64_json) if first.b64_json else None
        return GeneratedImage(load_image(encoded or first.url), encoded, usage=Usage(requests=1))
    except (ImageError, ValueError) as fault:
        raise ToolError(f"the image server sent an image that cannot be read: {fault}") from fault


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
