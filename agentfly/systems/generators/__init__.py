"""Image generators, for the refinement loop and the director–generator.

Import a generator from its own module: `openai`, `server`, `diffusers`, `stability`, `classical` or `placeholder`;
`EditingGenerator` is in `base`.
"""

from agentfly.systems.generators.base import GeneratedImage, ImageGenerator, ImageRequest, Usage

__all__ = ["GeneratedImage", "ImageGenerator", "ImageRequest", "Usage"]
