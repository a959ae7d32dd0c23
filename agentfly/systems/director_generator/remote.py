"""SDXL on a server: our image server (or a compatible one), and Stability's REST API.

An address is taken to be wrong as long as no server has answered there: then no image can be made, and the run ends.
Once a server has answered, a lost connection is a fault of one image, for which a placeholder may stand in.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from PIL import Image
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from agentfly.errors import ConfigError, ImageError, ToolError, first_line
from agentfly.images import ImageLimits, load_image
from agentfly.openai_client import Endpoint, SdkClient, sdk_faults
from agentfly.systems.director_generator.painters import TEXT_TO_IMAGE, ImagePrompt
from agentfly.systems.director_generator.settings import Keys, SdxlSettings

Sleep = Callable[[float], Awaitable[Any]]

# What a server sends is bytes of an image, never a place to look at.
_LIMITS = ImageLimits(allow_files=False)


class ServerPainter:
    """Images from `/v1/images/generations` of an image server, which may serve many clients at once.

    The key, if the server wants one, is SDXL_API_KEY: OpenAI's is never sent there.
    """

    medium = TEXT_TO_IMAGE

    def __init__(self, settings: SdxlSettings, keys: Keys) -> None:
        base = str(settings.api_base).rstrip("/")
        base = base if base.endswith("/v1") else f"{base}/v1"
        self.name = f"server {base}"
        self._settings, self._answered = settings, False
        self._client = SdkClient(
            Endpoint(
                base_url=base.replace("://0.0.0.0", "://127.0.0.1"),
                api_key_env="SDXL_API_KEY",
                api_key=keys.sdxl,
                timeout=settings.timeout,
                retries=settings.retries,
            )
        )

    async def paint(self, wanted: ImagePrompt, seed: int, source: Image.Image | None) -> Image.Image:
        """An image of the server's model; see `Painter`."""
        options = {
            "seed": seed,
            "negative_prompt": wanted.negative or None,
            "num_inference_steps": self._settings.steps,
            "guidance_scale": self._settings.guidance_scale,
        }
        with sdk_faults(f"the image {self.name}"), self._first_contact():
            reply: Any = await self._client.get().images.generate(
                prompt=wanted.prompt,
                size=self._settings.size,
                extra_body={name: value for name, value in options.items() if value is not None},
            )
            text = reply.data[0].b64_json
        self._answered = True
        return await asyncio.to_thread(_image, self.name, text)

    @contextmanager
    def _first_contact(self) -> Iterator[None]:
        """Tell a wrong address from a fault of one image.

        Raises:
            ConfigError: nobody listens there, or something that is not an image server, and none has answered before;
                or the server does not make images from text.
            ToolError: an image server has answered before, and now something else did.
        """
        import openai

        try:
            yield
        except openai.APIStatusError as fault:
            self._answered = True
            if fault.code == "operation_not_offered":
                raise ConfigError(
                    f"the image {self.name} makes no images from text ({first_line(fault)}): correct SDXL_API_BASE"
                ) from None
            raise
        except openai.APIConnectionError as fault:
            if not self._answered and _nobody_listens(fault.__cause__):
                why = first_line(fault.__cause__ or fault)
                raise ConfigError(
                    f"no image {self.name} ({why}): start it, or correct SDXL_API_BASE (sdxl.api_base)"
                ) from None
            raise
        except (json.JSONDecodeError, AttributeError, IndexError, TypeError):
            # The SDK hands on what is no JSON, and JSON of another form, as it comes.
            kind = ToolError if self._answered else ConfigError
            raise kind(f"the image {self.name} sent no image: check SDXL_API_BASE (sdxl.api_base)") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class _Passing(ToolError):
    """Another attempt may succeed."""


class StabilityPainter:
    """Images from Stability's REST API v1 (platform.stability.ai, `/v1/generation/{engine}/text-to-image`).

    Args:
        settings: engine, size and scales.
        keys: Stability's is needed.
        sleep: waits for some seconds between attempts.

    Raises:
        ConfigError: there is no key.
    """

    medium = TEXT_TO_IMAGE

    def __init__(self, settings: SdxlSettings, keys: Keys, *, sleep: Sleep = asyncio.sleep) -> None:
        if keys.stability is None:
            raise ConfigError(
                "sdxl mode api: set SDXL_API_BASE to an image server, or STABILITY_API_KEY for Stability, or take "
                "mode mock or local"
            )
        self.name = f"stability {settings.stability_engine}"
        self._settings = settings
        self._client = httpx.AsyncClient(
            base_url=settings.stability_base,
            timeout=settings.timeout,
            headers={"authorization": f"Bearer {keys.stability.get_secret_value()}", "accept": "application/json"},
        )
        self._sleep, self._answered = sleep, False

    async def paint(self, wanted: ImagePrompt, seed: int, source: Image.Image | None) -> Image.Image:
        """An image of Stability's; see `Painter`."""
        width, height = self._settings.sides
        prompts = [{"text": wanted.prompt, "weight": 1.0}]
        if wanted.negative:
            prompts.append({"text": wanted.negative, "weight": -1.0})
        body: dict[str, Any] = {"text_prompts": prompts, "width": width, "height": height, "samples": 1, "seed": seed}
        if self._settings.steps is not None:
            body["steps"] = self._settings.steps
        if self._settings.guidance_scale is not None:
            body["cfg_scale"] = self._settings.guidance_scale
        attempts = AsyncRetrying(
            sleep=self._sleep,
            stop=stop_after_attempt(self._settings.retries + 1),
            wait=wait_random_exponential(multiplier=0.5, max=20),
            retry=retry_if_exception_type(_Passing),
            reraise=True,
        )
        artifact: dict[str, Any] = await attempts(self._ask, body)
        if artifact.get("finishReason") != "SUCCESS":
            raise ToolError(f"{self.name} made no image ({artifact.get('finishReason')}): use other words")
        return await asyncio.to_thread(_image, self.name, artifact.get("base64"))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        path = f"/v1/generation/{self._settings.stability_engine}/text-to-image"
        try:
            reply = await self._client.post(path, json=body)
        except httpx.HTTPError as fault:
            why = f"({str(fault) or type(fault).__name__})"
            if not self._answered and _nobody_listens(fault):
                place = self._settings.stability_base
                raise ConfigError(f"{self.name} cannot be reached at {place} {why}: check stability_base") from None
            raise _Passing(f"{self.name} does not answer {why}") from None
        self._answered = True
        if reply.status_code != 200:
            raise self._refusal(reply)
        try:
            artifact = reply.json()["artifacts"][0]
        except (ValueError, KeyError, IndexError, TypeError):
            raise ToolError(f"{self.name} sent no artifacts: check stability_base") from None
        return dict(artifact)

    def _refusal(self, reply: httpx.Response) -> Exception:
        try:
            message = str(reply.json().get("message"))[:300]
        except (ValueError, AttributeError):
            message = "no reason given"
        told = f"{self.name} answered {reply.status_code}: {message}"
        if reply.status_code == 401:
            return ConfigError(f"{told}; check STABILITY_API_KEY")
        if reply.status_code == 404:
            return ConfigError(f"{told}; check stability_engine and stability_base")
        if reply.status_code in (408, 429) or reply.status_code >= 500:
            return _Passing(told)
        return ToolError(told)


def _nobody_listens(fault: BaseException | None) -> bool:
    """Return whether no connection came about: the name has no address, or the address refuses or does not answer."""
    # By name: the SDK has an HTTP library of its own, with classes of the same names.
    return any(kind.__name__ in ("ConnectError", "ConnectTimeout") for kind in type(fault).__mro__)


def _image(who: str, text: str | None) -> Image.Image:
    try:
        return load_image(base64.b64decode(text or "", validate=True), _LIMITS)
    except (binascii.Error, ImageError) as fault:
        raise ToolError(f"{who} sent no image that can be read: {fault}") from None
