"""Detection by a vision-language model: asks a chat endpoint for boxes as JSON. The policy's own model will do.

The image is sent at a size that the model's own resizing leaves as it is, so that pixel coordinates mean the same to
both sides (Qwen2.5-VL answers in pixels of the image that it sees, Qwen3-VL in thousandths of its sides).
"""

from __future__ import annotations

import asyncio
import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import json_repair
from PIL import Image
from pydantic import Field

from agentfly.errors import ToolError
from agentfly.openai_client import Endpoint, SdkClient
from agentfly.settings import Settings
from agentfly.vision.base import Detections
from agentfly.vision.detection.boxes import Candidate, normalise_prompt, to_detections

if TYPE_CHECKING:
    import openai

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
    """Where the model is and how it counts.

    Attributes:
        model: name of the model on the server.
        endpoint: where the server is.
        coordinates: what the model's boxes are counted in.
        max_pixels: pixels of the image that is sent at most.
        max_tokens: tokens of the answer at most.
    """

    model: str
    endpoint: Endpoint = Endpoint()
    coordinates: Literal["pixels", "thousandths"] = "pixels"
    max_pixels: int = Field(1280 * _PATCH * _PATCH, ge=4 * _PATCH * _PATCH)
    max_tokens: int = Field(1024, ge=1)


class VlmDetector:
    """Finds what a text names by asking a vision-language model.

    A model that gives no score counts as sure (1.0). `text_threshold` means nothing here: labels are words already.

    Args:
        settings: where the model is.
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
        """Objects that match one of the prompt's phrases, best first; their masks are their boxes.

        Raises:
            ToolError: the prompt is empty, the endpoint fails, or its answer holds no list of boxes.
            ConfigError: the endpoint refuses the key.
        """
        caption = normalise_prompt(prompt)
        sent = await asyncio.to_thread(self._fitted, image)
        answer = await self._ask(sent, caption)
        candidates = self._read(answer, sent.size, image.size, caption)
        kept = [candidate for candidate in candidates if candidate.score >= box_threshold]
        rejected = [candidate.score for candidate in candidates if candidate.score < box_threshold]
        best = round(max(rejected), 4) if rejected else None
        return await asyncio.to_thread(to_detections, kept, image.size, best_rejected=best)

    async def check_ready(self) -> None:
        """Find out, without cost, whether the endpoint answers and serves the model.

        Raises:
            ToolError: it does not answer.
            ConfigError: the key is missing or refused, or the model is not served.
        """
        await self._client.check_model(self.settings.model, f"the detector {self.name}")

    def _fitted(self, image: Image.Image) -> Image.Image:
        """The image with sides that are multiples of the patch, and not more pixels than wanted."""
        scale = min(1.0, math.sqrt(self.settings.max_pixels / (image.width * image.height)))
        width, height = (max(_PATCH, int(side * scale) // _PATCH * _PATCH) for side in image.size)
        return image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)

    async def _ask(self, image: Image.Image, caption: str) -> str:
        names = ", ".join(phrase.strip() for phrase in caption.split(".") if phrase.strip())
        unit = _UNITS[self.settings.coordinates].format(width=image.width, height=image.height)
        content: Any = [
            {"type": "image_url", "image_url": {"url": await asyncio.to_thread(_data_uri, image)}},
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

    def _read(self, answer: str, seen: tuple[int, int], size: tuple[int, int], caption: str) -> list[Candidate]:
        found = _boxes_in(answer)
        if found is None:
            raise ToolError(f"the detector {self.name} gave no list of boxes: use other words, or try again")
        units = (1000, 1000) if self.settings.coordinates == "thousandths" else seen
        scale = (size[0] / units[0], size[1] / units[1])
        read = (_candidate(entry, scale, caption) for entry in found)
        return [candidate for candidate in read if candidate is not None]


def _boxes_in(answer: str) -> list[Any] | None:
    """The JSON list in an answer, code fences and words around it or not; None where there is none."""
    start, end = answer.find("["), answer.rfind("]")
    if start < 0:
        return None
    parsed = json_repair.loads(answer[start : end + 1 if end > start else None])
    return parsed if isinstance(parsed, list) else None


def _candidate(entry: Any, scale: tuple[float, float], caption: str) -> Candidate | None:
    """A candidate in pixels of the whole image; None for what is no box."""
    if not isinstance(entry, dict):
        return None
    box = entry.get("bbox_2d", entry.get("bbox", entry.get("box")))
    if box is None or not _is_box(box):
        return None
    score = entry.get("score", entry.get("confidence", 1.0))
    x0, y0, x1, y1 = (float(value) for value in box)
    corners = (x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1])
    label = str(entry.get("label") or caption.replace(".", "").strip())
    return Candidate(label, _share(score), corners)


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, Sequence)
        and len(box) == 4
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in box)
    )


def _share(score: Any) -> float:
    """A score as a number from 0 to 1; what is no number counts as sure."""
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        return 1.0
    return min(1.0, max(0.0, float(score)))


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
