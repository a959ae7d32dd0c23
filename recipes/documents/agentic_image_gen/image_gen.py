"""One image, by the generator of the settings: OpenAI's unless `generator` names another."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from agentfly.images import load_image
from agentfly.systems.generators import GeneratedImage, ImageRequest
from agentfly.systems.refinement import make_generator
from agentfly.systems.refinement.command import ImageFiles, read_settings
from agentfly.systems.refinement.loop import Iteration


async def generate_image(
    prompt: str,
    reference_images: Sequence[str] | None = None,
    previous_response_id: str | None = None,
    **options: object,
) -> dict[str, str | None]:
    """Make an image in a temporary folder; return `image_path` and `response_id`.

    Args:
        prompt: description of the image.
        reference_images: paths and addresses; they are not sent where `previous_response_id` is given.
        previous_response_id: response to go on from.
        options: fields of `GenerateSettings`; those that are not given come from the environment or `.env`.

    Raises:
        ConfigError: a setting is wrong.
        ToolError: the model refuses.
        BackendError: the service does not answer.
    """
    settings = read_settings(options, None, None)
    references = await asyncio.gather(*(asyncio.to_thread(load_image, one) for one in reference_images or ()))
    # The service has the image; the generator sends its response's id alone.
    before = GeneratedImage(Image.new("RGB", (1, 1)), context=previous_response_id)
    generator = make_generator(settings)
    try:
        made = await generator.generate(
            ImageRequest(prompt, references=tuple(references), previous=before if previous_response_id else None)
        )
    finally:
        await generator.close()
    files = ImageFiles(Path(tempfile.mkdtemp(prefix="generated_image_")), settings)
    await files.add(Iteration(1, prompt, image=made))
    return {"image_path": files.paths[1], "response_id": made.context}
