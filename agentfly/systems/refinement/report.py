"""The output of a loop: images as files, and one JSON object with all the rest."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from agentfly.errors import ConfigError, ImageError
from agentfly.images import save_image
from agentfly.systems.generators import GeneratedImage
from agentfly.systems.refinement.loop import Iteration, Refinement
from agentfly.systems.refinement.settings import RefinementSettings
from agentfly.systems.text.replies import make_folder

_SUFFIX = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


class ImageFiles:
    """The images of a run as files `iteration_1.png` and so on, each written as soon as it is made.

    Args:
        folder: of the files; made where it is missing.
        settings: of the loop.

    Attributes:
        paths: absolute path of each image, by iteration.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path, settings: RefinementSettings) -> None:
        self.folder, self._settings = make_folder(folder), settings
        self.paths: dict[int, str] = {}

    async def add(self, iteration: Iteration) -> None:
        """Write the image of an iteration, if there is one.

        Raises:
            ConfigError: the file cannot be written.
        """
        if iteration.image is None:
            return
        file = self.folder / f"iteration_{iteration.number}{_SUFFIX[self._settings.format]}"
        try:
            path = await asyncio.to_thread(_write, iteration.image, file, self._settings)
        except (OSError, ImageError) as fault:
            raise ConfigError(f"cannot write {str(file)!r} ({fault}): give another --output-dir") from fault
        self.paths[iteration.number] = str(path)


def report(refinement: Refinement, files: dict[int, str], settings: RefinementSettings) -> dict[str, Any]:
    """Return the documented JSON object.

    The three histories have one entry for each iteration. An image that was not made is null, and the feedback of an
    iteration that failed is its error.

    Args:
        refinement: record of the run.
        files: path of each image, by iteration.
        settings: of the loop, for the prices.
    """
    best = refinement.best
    prices = settings.input_price, settings.output_price
    parts = ("generate", "evaluate", "refine")
    sums = {part: round(sum(one.seconds.get(part, 0.0) for one in refinement.iterations), 3) for part in parts}
    return {
        "best_image_url": files.get(best.number) if best is not None else None,
        "final_score": best.score if best is not None else None,
        "prompt_history": [one.prompt for one in refinement.iterations],
        "image_history": [files.get(one.number) for one in refinement.iterations],
        "feedback_history": [one.feedback if one.fault is None else one.fault for one in refinement.iterations],
        "thread_id": refinement.thread_id,
        "score_history": [one.score for one in refinement.iterations],
        "stopped": refinement.end.value,
        "error": refinement.fault or refinement.error,
        "iterations": [_entry(one) for one in refinement.iterations],
        "costs": {role: usage.to_dict(*prices) for role, usage in refinement.usage.items()},
        "timings": {"total": round(refinement.seconds, 3), **sums},
    }


def write_json(content: Mapping[str, object], file: Path) -> None:
    """Write a report beside its images."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write(image: GeneratedImage, file: Path, settings: RefinementSettings) -> Path:
    """Write the file as it was received if it has the wanted format; encode the image otherwise."""
    if image.encoded is not None:
        with Image.open(io.BytesIO(image.encoded)) as received:
            if received.format == settings.format.upper():
                file.write_bytes(image.encoded)
                return file.resolve()
    return save_image(image.image, file).resolve()


def _entry(one: Iteration) -> dict[str, object]:
    return {
        "number": one.number,
        "engine": one.engine,
        "score": one.score,
        "aspects": one.aspects,
        "error": one.fault,
        "prompter_error": one.prompter_fault,
        "response_id": one.image.context if one.image is not None else None,
        "seconds": {part: round(seconds, 3) for part, seconds in one.seconds.items()},
    }
