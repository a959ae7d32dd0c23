"""Detection by a vision-language model, which is asked for boxes as JSON. The policy's own model will do.

The image is sent at a size that the model's own resizing leaves unchanged, so that pixel coordinates mean the same to
both sides (Qwen2.5-VL answers in pixels of the image that it sees, Qwen3-VL in thousandths of its sides).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeGuard

import json_repair
from PIL import Image
from pydantic import Field

from agentfly.errors import ToolError
from agentfly.images import data_uri, without_transparency
from agentfly.openai_client import Endpoint, SdkClient
from agentfly.settings import Settings
from agentfly.vision.base import Detections
from agentfly.vision.detection.boxes import Candidate, normalise_prompt, to_detections

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletionContentPartParam

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
        coordinates: unit of the model's boxes.
        max_pixels: pixels of the image that is sent at most.
        max_tokens: tokens of the answer at most.
    """

    model: str
    endpoint: Endpoint = Endpoint()
    coordinates: Literal["pixels", "thousandths"] = "pixels"
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

    def check_key(self) -> None:
        """See `ServiceEngine`."""
        self.settings.endpoint.key()

    async def detect(
        self, image: Image.Image, prompt: str, *, box_threshold: float, text_threshold: float
    ) -> Detections:
        """Return the objects that match one of the prompt's phrases, with their boxes as masks; see `Detector`.

        Raises:
            ToolError: the prompt is empty, the endpoint fails, or its answer holds no list of boxes.
            ConfigError: the endpoint refuses the key.
        """
        caption = normalise_prompt(prompt)
        # Sides that are multiples of the patch, and no more pixels than wanted.
        scale = min(1.0, math.sqrt(self.settings.max_pixels / (image.width * image.height)))
        width, height = (max(_PATCH, int(side * scale) // _PATCH * _PATCH) for side in image.size)
        rgb = await asyncio.to_thread(image.convert, "RGB")
        sent = await asyncio.to_thread(rgb.resize, (width, height), Image.Resampling.BICUBIC)
        answer = await self._ask(sent, caption)
        # The list may stand in a code fence, or between words.
        start, end = answer.find("["), answer.rfind("]")
        found = json_repair.loads(answer[start : end + 1 if end > start else None]) if start >= 0 else None
        if not isinstance(found, list):
            raise ToolError(f"the detector {self.name} gave no list of boxes: use other words, or try again")
        units = (1000, 1000) if self.settings.coordinates == "thousandths" else sent.size
        per_unit = (image.width / units[0], image.height / units[1])
        read = (_read_candidate(entry, per_unit, caption) for entry in found)
        candidates = [candidate for candidate in read if candidate is not None]
        kept = [candidate for candidate in candidates if candidate.score >= box_threshold]
        rejected = [candidate.score for candidate in candidates if candidate.score < box_threshold]
        best = round(max(rejected), 4) if rejected else None
        return await asyncio.to_thread(to_detections, kept, image.size, best_rejected=best)

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
        url = await asyncio.to_thread(lambda: data_uri(without_transparency(image)))
        content: list[ChatCompletionContentPartParam] = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": _ASK.format(names=names, unit=unit)},
        ]
        with self._client.translated_faults(f"the detector {self.name}"):
            reply = await self._client.get().chat.completions.create(
                model=self.settings.model,
                messages=[{"role": "user", "content": content}],
                max_tokens=self.settings.max_tokens,
                temperature=0.0,
            )
        return reply.choices[0].message.content or "" if reply.choices else ""


def _read_candidate(entry: object, scale: tuple[float, float], caption: str) -> Candidate | None:
    """Return a candidate in pixels of the whole image; None for an entry that is no box."""
    if not isinstance(entry, dict):
        return None
    box = entry.get("bbox_2d", entry.get("bbox", entry.get("box")))
    if not isinstance(box, Sequence) or len(box) != 4 or not all(map(_is_number, box)):
        return None
    given = entry.get("score", entry.get("confidence"))
    # A score that is no finite number counts as sure.
    score = min(1.0, max(0.0, float(given))) if _is_number(given) and math.isfinite(given) else 1.0
    x0, y0, x1, y1 = (float(value) for value in box)
    corners = (x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1])
    label = str(entry.get("label") or caption.replace(".", "").strip())
    return Candidate(label, score, corners)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
