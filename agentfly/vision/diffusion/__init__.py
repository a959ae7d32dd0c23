"""Diffusion engines: inpainting, editing, and images from text. Neither torch nor diffusers is loaded before a call."""

from agentfly.vision.diffusion.engine import (
    DiffusionEditor,
    DiffusionInpainter,
    ImageToImage,
    TextRequest,
    TextToImage,
)
from agentfly.vision.diffusion.pipelines import Weights
from agentfly.vision.diffusion.settings import DiffusionSettings, EditorSettings, InpainterSettings, WeightSettings

__all__ = [
    "DiffusionEditor",
    "DiffusionInpainter",
    "DiffusionSettings",
    "EditorSettings",
    "ImageToImage",
    "InpainterSettings",
    "TextRequest",
    "TextToImage",
    "WeightSettings",
    "Weights",
]
