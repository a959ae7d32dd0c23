"""Images by an image server: from text at `/v1/images/generations`, from an image at `/v1/images/edits`.

Our servers list their capabilities at `/v1/models`. A server that makes images from text only makes every image from
text.

An address is taken to be wrong as long as no server has answered there: no image can be made, and the run ends. Once a
server has answered, a lost connection is a fault of one image.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from PIL import Image

from agentfly.errors import ConfigError, EngineUnavailable, ImageError, ToolError, first_line
from agentfly.images import encode_image
from agentfly.openai_client import Endpoint, SdkClient
from agentfly.openai_compat import check_answer
from agentfly.redaction import public_url
from agentfly.systems.generators.base import GeneratedImage, ImageRequest, Usage, nobody_listens
from agentfly.systems.generators.responses import service_error
from agentfly.vision.image_replies import decode_image, first_image

if TYPE_CHECKING:
    from openai.types import ImagesResponse

logger = logging.getLogger(__name__)

_BOTH = frozenset(("generate", "edit"))
_TEXT_ONLY = frozenset(("generate",))


class ServerGenerator:
    """A generator on an image server, which may serve many clients at once.

    Args:
        endpoint: address, with or without /v1, and key.
        address_setting: setting that holds the address, for messages.
        size: WIDTHxHEIGHT in pixels; None leaves it to the server.
        steps, guidance_scale: of the denoiser, for servers of ours; None leaves them to the server.
        seed: of the first image of a series, counted up, for servers of ours; None leaves it to the server.
        fields: further fields of every request, for any server.
        text_only: make every image from text, without asking the server for its models first; the server gets the
            fields of ours.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        address_setting: str,
        *,
        size: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
        fields: Mapping[str, object] | None = None,
        text_only: bool = False,
    ) -> None:
        url = f"{(endpoint.base_url or '').rstrip('/').removesuffix('/v1')}/v1"
        self._url, self._address_setting = public_url(url), address_setting
        self.name = f"server {self._url}"
        self._who = f"the image server {self._url}"
        # Servers print 0.0.0.0 as the address that they listen at; nobody can connect to it everywhere.
        reachable = url.replace("://0.0.0.0", "://127.0.0.1")
        self._client = SdkClient(endpoint.model_copy(update={"base_url": reachable}))
        self._options = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
        self._size, self._seed, self._fields = size, seed, dict(fields or {})
        self._model: str | None = None
        self._offers: frozenset[str] | None = _TEXT_ONLY if text_only else None
        self._ours = text_only
        self._answered = False

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """Make an image; see `ImageGenerator`."""
        reply = None
        with self._client.translated_faults(self._who, service_error), self._first_contact():
            offers = self._offers if self._offers is not None else await self._ask_offers()
            if request.starts and "edit" in offers:
                reply = await self._edit(request.starts, request)
            if reply is None:
                if request.references and request.previous is None:
                    raise EngineUnavailable(
                        "needs a server that edits: this one makes images from text only; leave the references out"
                    )
                if "generate" not in offers:
                    raise EngineUnavailable("this image server edits and makes none from text: give a reference image")
                reply = await self._client.get().images.generate(prompt=request.prompt, **self._body(request))
            check_answer(reply)
        return await asyncio.to_thread(self._read_image, reply)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    @contextmanager
    def _first_contact(self) -> Iterator[None]:
        """Tell a wrong address from a fault of one image.

        Raises:
            ConfigError: nothing at the address, or something else than an image server, and no server has answered
                there before; or the server does not make images from text.
        """
        import openai

        try:
            yield
        except openai.APIStatusError as fault:
            self._answered = True
            if fault.code == "operation_not_offered":
                why = self._client.redact(first_line(fault))
                raise ConfigError(
                    f"{self._who} makes no images from text ({why}): correct {self._address_setting}"
                ) from None
            raise
        except openai.APIConnectionError as fault:
            if self._answered or not nobody_listens(fault.__cause__):
                raise
            why = self._client.redact(first_line(fault.__cause__ or fault))
            raise ConfigError(
                f"no image server at {self._url} ({why}): start it, or correct {self._address_setting}"
            ) from None
        except json.JSONDecodeError:
            if self._answered:
                raise
            raise ConfigError(f"{self._who} sent no JSON: check {self._address_setting}") from None

    async def _ask_offers(self) -> frozenset[str]:
        """Ask the server for its model and its capabilities."""
        models = getattr(await self._client.get().models.list(), "data", None)
        if not isinstance(models, list):
            raise ConfigError(f"{self._who} lists no models: correct {self._address_setting}")
        self._answered = True
        model = models[0] if models else None
        self._model = model.id if model is not None else "default"
        self._ours = model is not None and model.owned_by == "agentfly"
        self.name = f"image server ({self._model})"
        listed = (model.model_extra or {}).get("capabilities") if model is not None and self._ours else None
        self._offers = frozenset(map(str, listed)) if isinstance(listed, list) else _BOTH
        return self._offers

    async def _edit(self, starts: Sequence[Image.Image], request: ImageRequest) -> ImagesResponse | None:
        """Ask for an edit; return None where the server has no editing, so that it goes on from text."""
        import openai

        files = [
            (f"image_{index}.png", await asyncio.to_thread(encode_image, image), "image/png")
            for index, image in enumerate(starts)
        ]
        try:
            return await self._client.get().images.edit(
                image=files if len(files) > 1 else files[0], prompt=request.prompt, **self._body(request)
            )
        except openai.APIStatusError as fault:
            if self._ours or fault.status_code not in (404, 405, 501):
                raise
            logger.warning("the image server has no /v1/images/edits: every image is made from text")
            self._offers = _TEXT_ONLY
            return None

    def _body(self, request: ImageRequest) -> dict[str, Any]:
        own: dict[str, object] = {}
        if self._ours:
            seed, negative = request.seed_or_next(self._seed), request.negative_prompt or None
            own = {"seed": seed, "negative_prompt": negative, **self._options}
        extra = {**{name: value for name, value in own.items() if value is not None}, **self._fields}
        named = {"model": self._model, "size": self._size, "extra_body": extra or None}
        return {name: value for name, value in named.items() if value is not None}

    def _read_image(self, reply: ImagesResponse) -> GeneratedImage:
        text = first_image(reply)
        if text is None:
            kind = ToolError if self._answered else ConfigError
            raise kind(f"{self._who} sent no image: check {self._address_setting}")
        self._answered = True
        try:
            image, content = decode_image(text)
            return GeneratedImage(image, content, usage=Usage(requests=1))
        except ImageError as fault:
            raise ToolError(f"{self._who} sent an image that cannot be read: {fault}") from fault
