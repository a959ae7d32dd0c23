"""Inpainting and editing by diffusion. Importing this loads neither torch nor diffusers; the first call does."""

from agentfly.vision.diffusion.editing import DiffusionEditor
from agentfly.vision.diffusion.inpainting import DiffusionInpainter
from agentfly.vision.diffusion.pipelines import Weights
from agentfly.vision.diffusion.settings import EditorSettings, InpainterSettings, WeightSettings

__all__ = ["DiffusionEditor", "DiffusionInpainter", "EditorSettings", "InpainterSettings", "WeightSettings", "Weights"]
