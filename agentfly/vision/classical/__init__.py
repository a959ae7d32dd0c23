"""Engines without weights: OpenCV and NumPy, for six colours and four shapes."""

from agentfly.vision.base import Engines
from agentfly.vision.classical.detector import ClassicalDetector
from agentfly.vision.classical.editor import ClassicalEditor, ClassicalInpainter

__all__ = ["ClassicalDetector", "ClassicalEditor", "ClassicalInpainter", "classical_engines"]


def classical_engines() -> Engines:
    """Return the three classical engines. They hold no state, so one set serves any number of chains at once."""
    return Engines(ClassicalDetector(), ClassicalInpainter(), ClassicalEditor())
