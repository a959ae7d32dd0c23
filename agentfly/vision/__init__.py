"""The engines behind the tools: contracts here, each engine in its own module that is imported where it is used."""

from agentfly.vision.base import (
    Detection,
    Detections,
    Detector,
    Editor,
    EditParams,
    Engines,
    Inpainter,
    InpaintParams,
)

__all__ = [
    "Detection",
    "Detections",
    "Detector",
    "EditParams",
    "Editor",
    "Engines",
    "InpaintParams",
    "Inpainter",
]
