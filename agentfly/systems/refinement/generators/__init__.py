"""The generators of a refinement loop; each is imported when it is chosen."""

from __future__ import annotations

from agentfly.systems.refinement.generators.base import GeneratedImage, Generator, ImageRequest
from agentfly.systems.refinement.settings import RefinementSettings

__all__ = ["GeneratedImage", "Generator", "ImageRequest", "make_generator"]


def make_generator(settings: RefinementSettings) -> Generator:
    """The generator that settings name.

    Raises:
        ConfigError: it is set up wrongly.
        MissingExtraError: a package that it needs is not installed.
    """
    if settings.generator == "openai":
        from agentfly.systems.refinement.generators.openai import OpenAIGenerator

        return OpenAIGenerator(settings)
    if settings.generator == "server":
        from agentfly.systems.refinement.generators.server import ServerGenerator

        return ServerGenerator(settings)
    if settings.generator == "diffusers":
        from agentfly.systems.refinement.generators.diffusers import DiffusersGenerator

        return DiffusersGenerator(settings)
    from agentfly.systems.refinement.generators.classical import ClassicalGenerator

    return ClassicalGenerator(settings)
