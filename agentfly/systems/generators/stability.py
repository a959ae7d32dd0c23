"""Images by Stability's REST API v1 (platform.stability.ai, `/v1/generation/{engine}/text-to-image`)."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from pydantic import SecretStr

from agentfly.agents.llm_backends.client_errors import TransientError, backoff
from agentfly.aio import Sleep, retrying
from agentfly.errors import ConfigError, ImageError, ToolError
from agentfly.redaction import checked_key, public_url, redact
from agentfly.systems.generators.base import GeneratedImage, ImageRequest, Usage, nobody_listens
from agentfly.vision.image_replies import decode_image


class StabilityGenerator:
    """A generator of images from text. Faults that may pass are tried again.

    Args:
        base_url: address of the API, up to and without /v1.
        engine: model of the API.
        key: of the API.
        size: width and height in pixels.
        steps, guidance_scale: of the denoiser; None leaves them to the API.
        timeout: seconds for one attempt.
        retries: further attempts after faults that may pass.
        sleep: waits for some seconds between attempts.
    """

    def __init__(
        self,
        base_url: str,
        engine: str,
        key: SecretStr,
        *,
        size: tuple[int, int],
        steps: int | None = None,
        guidance_scale: float | None = None,
        timeout: float = 600.0,
        retries: int = 2,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.name = f"stability {engine}"
        self._key = checked_key(key.get_secret_value(), "STABILITY_API_KEY")
        self._base_url, self._path = base_url, f"/v1/generation/{engine}/text-to-image"
        width, height = size
        options = {"width": width, "height": height, "samples": 1, "steps": steps, "cfg_scale": guidance_scale}
        self._options = {name: value for name, value in options.items() if value is not None}
        self._client = httpx.AsyncClient(
            base_url=base_url,
            timeout=timeout,
            headers={"authorization": f"Bearer {self._key}", "accept": "application/json"},
        )
        self._retries, self._sleep, self._answered = retries, sleep, False

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """Make an image; see `ImageGenerator`. References are not looked at."""
        prompts: list[dict[str, str | float]] = [{"text": request.prompt, "weight": 1.0}]
        if request.negative_prompt:
            prompts.append({"text": request.negative_prompt, "weight": -1.0})
        body = {"text_prompts": prompts, "seed": request.seed or 0, **self._options}
        attempts = retrying(self._retries + 1, TransientError, backoff, sleep=self._sleep)
        artifact: dict[str, Any] = await attempts(self._ask, body)
        if artifact.get("finishReason") != "SUCCESS":
            raise ToolError(f"{self.name} made no image ({artifact.get('finishReason')}): use other words")
        try:
            text = artifact.get("base64")
            image, encoded = await asyncio.to_thread(decode_image, text if isinstance(text, str) else "")
        except ImageError as fault:
            raise ToolError(f"{self.name} sent no image that can be read: {fault}") from None
        return GeneratedImage(image, encoded, usage=Usage(requests=1))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _ask(self, body: dict[str, object]) -> dict[str, Any]:
        try:
            reply = await self._client.post(self._path, json=body)
        except httpx.HTTPError as fault:
            why = f"({redact(str(fault), self._key) or type(fault).__name__})"
            if not self._answered and nobody_listens(fault):
                raise ConfigError(
                    f"{self.name} cannot be reached at {public_url(self._base_url)} {why}: check stability_base"
                ) from None
            raise TransientError(f"{self.name} does not answer {why}") from None
        self._answered = True
        if reply.status_code != 200:
            try:
                reason = redact(str(reply.json().get("message")), self._key)[:300]
            except (ValueError, AttributeError, RecursionError):
                reason = "no reason given"
            message = f"{self.name} answered {reply.status_code}: {reason}"
            if reply.status_code == 401:
                raise ConfigError(f"{message}; check STABILITY_API_KEY")
            if reply.status_code == 404:
                raise ConfigError(f"{message}; check stability_engine and stability_base")
            passing = reply.status_code in (408, 429) or reply.status_code >= 500
            raise (TransientError if passing else ToolError)(message)
        try:
            return dict(reply.json()["artifacts"][0])
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise ToolError(f"{self.name} sent no artifacts: check stability_base") from None
