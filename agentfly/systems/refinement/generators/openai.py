"""Images by OpenAI's Responses API and its image_generation tool; a response remembers those before it."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import TYPE_CHECKING, Any

from agentfly.errors import ImageError, ToolError
from agentfly.evaluators.judge.judge import data_uri
from agentfly.images import load_image
from agentfly.systems.refinement.generators.base import GeneratedImage, ImageRequest
from agentfly.systems.refinement.responses import ResponsesClient, why_nothing
from agentfly.systems.refinement.settings import RefinementSettings
from agentfly.systems.refinement.usage import Usage

if TYPE_CHECKING:
    from openai.types.responses import Response

_MAX_PIXELS = 4_000_000


class OpenAIGenerator:
    """Makes images with the model of the settings; the first request carries the references.

    Args:
        settings: of the loop.
    """

    def __init__(self, settings: RefinementSettings) -> None:
        self.name = settings.image_model or settings.model
        self._client = ResponsesClient(settings.model, settings.endpoint(settings.base_url))
        self._tool: dict[str, Any] = {
            "type": "image_generation",
            "quality": settings.quality,
            "size": settings.size,
            "background": settings.wanted_background,
            "output_format": settings.format,
            **({"model": settings.image_model} if settings.image_model else {}),
        }

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """The image of a request; see `Generator`."""
        content: list[dict[str, Any]] = [{"type": "input_text", "text": request.prompt}]
        arguments: dict[str, Any] = {"tools": [self._tool], "tool_choice": {"type": "image_generation"}}
        if request.previous is not None:
            arguments["previous_response_id"] = request.previous.context
        else:
            for image in request.references:
                url = await asyncio.to_thread(data_uri, image, _MAX_PIXELS)
                content.append({"type": "input_image", "image_url": url, "detail": "auto"})
        usage = Usage()
        reply = await self._client.create(usage, input=[{"role": "user", "content": content}], **arguments)
        return await asyncio.to_thread(_image, reply, usage)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _image(reply: Response, usage: Usage) -> GeneratedImage:
    results = [item.result for item in reply.output if item.type == "image_generation_call" and item.result]
    if not results:
        raise ToolError(why_nothing(reply))
    try:
        encoded = base64.b64decode(results[-1], validate=True)
        return GeneratedImage(load_image(encoded), encoded, reply.id, usage)
    except (binascii.Error, ImageError) as fault:
        raise ToolError(f"the model sent an image that cannot be read: {fault}") from fault
