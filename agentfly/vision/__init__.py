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
from agentfly.vision.detection.drawing import draw_detections
from agentfly.vision.factory import make_engines

__all__ = [
    "Detection",
    "Detections",
    "Detector",
    "EditParams",
    "Editor",
    "Engines",
    "InpaintParams",
    "Inpainter",
    "draw_detections",
    "make_engines",
]
