"""The loop as a function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentfly.systems.refinement.command import GenerateRequest, generate_image, read_settings


async def run_image_generation_loop(
    prompt: str, reference_images: Sequence[str] | None = None, **options: object
) -> dict[str, Any]:
    """Return what `agentfly generate` prints.

    Args:
        prompt: description of the image.
        reference_images: paths and addresses.
        options: fields of `GenerateSettings`; those that are not given come from the environment or `.env`.

    Raises:
        ConfigError: a setting is wrong.
        ImageError: a reference cannot be loaded.
    """
    settings, request = read_settings(options, None, None), GenerateRequest(prompt, reference_images or ())
    request.check(settings)
    return await generate_image(request, settings)
