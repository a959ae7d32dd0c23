"""Diffusion engines: inpainting, editing, and images from text. Neither torch nor diffusers is loaded before a call."""

from agentfly.vision.diffusion.engine import DiffusionEditor, DiffusionInpainter
from agentfly.vision.diffusion.pipelines import Weights
from agentfly.vision.diffusion.settings import DiffusionSettings, EditorSettings, InpainterSettings, WeightSettings
from agentfly.vision.diffusion.text_to_image import ImageToImage, TextRequest, TextToImage

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
