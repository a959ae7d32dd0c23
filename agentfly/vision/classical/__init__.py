"""Engines without weights: OpenCV and NumPy. They know six colours and four shapes, and say so when asked for more."""

from agentfly.vision.base import Engines
from agentfly.vision.classical.detector import ClassicalDetector
from agentfly.vision.classical.editor import ClassicalEditor
from agentfly.vision.classical.inpainter import ClassicalInpainter

__all__ = ["ClassicalDetector", "ClassicalEditor", "ClassicalInpainter", "classical_engines"]


def classical_engines() -> Engines:
    """The three classical engines; they hold no state, so one set serves any number of chains at once."""
    return Engines(ClassicalDetector(), ClassicalInpainter(), ClassicalEditor())
