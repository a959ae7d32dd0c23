"""Images by OpenAI's Responses API and its image_generation tool; a response remembers those before it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from PIL import Image

from agentfly.errors import ImageError, ToolError
from agentfly.images import data_uri
from agentfly.lenient_json import field_of
from agentfly.openai_client import Endpoint
from agentfly.systems.generators.base import GeneratedImage, ImageRequest, Usage
from agentfly.systems.generators.responses import ResponsesClient, reason_for_nothing
from agentfly.vision.image_replies import decode_image

if TYPE_CHECKING:
    from openai.types.responses import Response

_MAX_PIXELS = 4_000_000


class OpenAIGenerator:
    """A generator on a model that calls the image_generation tool; the first request carries the references.

    Args:
        model: of the Responses API.
        endpoint: address and key.
        options: of the image_generation tool, such as `model`, `quality`, `size`, `background` and `output_format`.
    """

    def __init__(self, model: str, endpoint: Endpoint, options: Mapping[str, str]) -> None:
        self.name = options.get("model", model)
        self._client = ResponsesClient(model, endpoint)
        self._tool = {"type": "image_generation", **options}

    async def generate(self, request: ImageRequest) -> GeneratedImage:
        """Make an image; see `ImageGenerator`."""
        content = [{"type": "input_text", "text": request.prompt}]
        link = {}
        if request.previous is not None:
            link = {"previous_response_id": request.previous.context}
        else:
            for image in request.references:
                url = await asyncio.to_thread(_scaled_data_uri, image)
                content.append({"type": "input_image", "image_url": url, "detail": "auto"})
        usage = Usage()
        reply = await self._client.create(
            usage,
            input=[{"role": "user", "content": content}],
            tools=[self._tool],
            tool_choice={"type": "image_generation"},
            **link,
        )
        return await asyncio.to_thread(self._read_image, reply, usage)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _read_image(self, reply: Response, usage: Usage) -> GeneratedImage:
        results = [
            field_of(item, "result") for item in reply.output if field_of(item, "type") == "image_generation_call"
        ]
        found = [result for result in results if isinstance(result, str) and result]
        if not found:
            raise ToolError(reason_for_nothing(reply))
        try:
            # The file itself is kept: it may already have the format that is wanted.
            image, encoded = decode_image(found[-1])
            return GeneratedImage(image, encoded, reply.id, usage)
        except ImageError as fault:
            raise ToolError(f"the model {self.name} sent an image that cannot be read: {fault}") from fault


def _scaled_data_uri(image: Image.Image) -> str:
    scale = math.sqrt(_MAX_PIXELS / (image.width * image.height))
    if scale < 1.0:
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return data_uri(image)
