"""Image generators, for the refinement loop and the director–generator.

Import a generator from its own module: `openai`, `server`, `diffusers`, `stability`, `classical`, `editor`, or
`placeholder`.
"""

from agentfly.systems.generators.base import GeneratedImage, ImageGenerator, ImageRequest
from agentfly.systems.generators.usage import Usage

__all__ = ["GeneratedImage", "ImageGenerator", "ImageRequest", "Usage"]
