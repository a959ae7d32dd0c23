"""Detection by a vision-language model, which is asked for boxes as JSON. The policy's own model will do.

The image is sent at a size that the model's own resizing leaves unchanged, so that pixel coordinates mean the same to
both sides (Qwen2.5-VL answers in pixels of the image that it sees, Qwen3-VL in thousandths of its sides).
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from PIL import Image
from pydantic import Field

from agentfly.errors import ToolError
from agentfly.images import data_uri, on_white
from agentfly.lenient_json import field_of
from agentfly.openai_client import Endpoint, SdkClient
from agentfly.openai_compat import split_content
from agentfly.settings import Settings
from agentfly.vision.base import Detections
from agentfly.vision.detection.boxes import normalise_prompt, to_detections
from agentfly.vision.detection.grounding import Unit, read_boxes

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

_PATCH = 28
_ASK = (
    "Find every instance of: {names}. Answer with JSON only: a list with one object per instance, "
    '{{"bbox_2d": [x1, y1, x2, y2], "label": "...", "score": 0.0 to 1.0}}, '
    "{unit}. score is how sure you are. If there is none, answer []."
)
_UNITS = {
    "pixels": "coordinates in pixels of the image, which is {width} wide and {height} high",
    "thousandths": "coordinates from 0 to 1000, relative to the image's width and height",
}


class VlmSettings(Settings):
    """The model, its address, and its unit of coordinates.

    Attributes:
        model: name of the model on the server.
        endpoint: address of the server.
        coordinates: unit of the boxes that the model is asked for. A reply in another one is read where it can be
            told, by the rule of `agentfly.vision.detection.grounding`.
        max_pixels: pixels of the image that is sent at most.
        max_tokens: tokens of the answer at most.
    """

    model: str
    endpoint: Endpoint = Endpoint()
    coordinates: Unit = "pixels"
    max_pixels: int = Field(1280 * _PATCH * _PATCH, ge=4 * _PATCH * _PATCH)
    max_tokens: int = Field(1024, ge=1)


class VlmDetector:
    """Finds the objects that a text names by asking a vision-language model.

    An object without a score counts as sure (1.0). `text_threshold` has no effect here: labels are words already.

    Args:
        settings: the model and its address.
        client: an OpenAI client to use instead of one made from the settings.
    """

    def __init__(self, settings: VlmSettings, client: openai.AsyncOpenAI | None = None) -> None:
        self.settings = settings
        self.name = settings.model
        self._client = SdkClient(settings.endpoint, client)
        self._warned: set[Unit] = set()

    def check_key(self) -> None:
        """See `ServiceEngine`."""
        self.settings.endpoint.key()

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Detections:
        """Return the objects that match one of the prompt's phrases, with their boxes as masks; see `Detector`.

        Raises:
            ToolError: the prompt is empty, the endpoint fails, or its answer holds no list of boxes, or boxes of which
                none can be read.
            ConfigError: the endpoint refuses the key.
        """
        caption = normalise_prompt(prompt)
        # Sides that are multiples of the patch, and no more pixels than wanted.
        scale = min(1.0, math.sqrt(self.settings.max_pixels / (image.width * image.height)))
        width, height = (max(_PATCH, int(side * scale) // _PATCH * _PATCH) for side in image.size)
        rgb = await asyncio.to_thread(on_white, image)
        sent = await asyncio.to_thread(rgb.resize, (width, height), Image.Resampling.BICUBIC)
        answer = await self._ask(sent, caption)
        read = await asyncio.to_thread(read_boxes, answer, caption, sent.size, image.size, self.settings.coordinates)
        if read is None:
            raise ToolError(f"the detector {self.name} gave no list of boxes: use other words, or try again")
        if read.unit is not None and read.unit not in (self.settings.coordinates, *self._warned):
            self._warned.add(read.unit)
            logger.warning("the detector %s gives boxes in %s: set coordinates to %s", self.name, read.unit, read.unit)
        kept = [candidate for candidate in read.candidates if candidate.score >= box_threshold]
        rejected = [candidate.score for candidate in read.candidates if candidate.score < box_threshold]
        best = round(max(rejected), 4) if rejected else None
        found = await asyncio.to_thread(to_detections, kept, image.size, best_rejected=best)
        # Where there is a box, "nothing found" would be wrong.
        unread = read.unread or (str(kept[0].corners) if kept else None)
        if not found and unread is not None:
            raise ToolError(
                f"the detector {self.name} gave boxes that cannot be read, such as {unread}: use other words, or try "
                "again"
            )
        return found

    async def check_ready(self) -> None:
        """Raise unless the endpoint answers and serves the model; generates nothing, so it costs nothing.

        Raises:
            ToolError: it does not answer.
            ConfigError: the key is missing or refused, or the model is not served.
        """
        await self._client.check_model(self.settings.model, f"the detector {self.name}")

    async def _ask(self, image: Image.Image, caption: str) -> str:
        names = ", ".join(phrase.strip() for phrase in caption.split(".") if phrase.strip())
        unit = _UNITS[self.settings.coordinates].format(width=image.width, height=image.height)
        content = [
            {"type": "image_url", "image_url": {"url": await asyncio.to_thread(data_uri, image)}},
            {"type": "text", "text": _ASK.format(names=names, unit=unit)},
        ]
        body = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.settings.max_tokens,
            "temperature": 0.0,
        }
        with self._client.translated_faults(f"the detector {self.name}"):
            reply = await self._client.complete(body)
        # A server's JSON need not have the form of a completion.
        choices = field_of(reply, "choices")
        message = field_of(choices[0], "message") if isinstance(choices, list) and choices else None
        return split_content(field_of(message, "content"))[1]
