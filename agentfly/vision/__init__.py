"""The engines behind the tools: their contracts here, each engine in a module of its own."""

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
from agentfly.vision.detection.boxes import draw_detections
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
