"""A person's opinion of an image, between two rounds of a system: a score, and words for the next prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Question:
    """What a person is asked about.

    Attributes:
        title: of the image in its run.
        file: the image.
        score: of the judges, 0 to 100; None where there is none.
        feedback: of the judges.
    """

    title: str
    file: Path
    score: float | None
    feedback: str


@dataclass(frozen=True)
class Opinion:
    """What a person says.

    Attributes:
        score: 0 to 100; None to keep the judges'.
        words: what should change; "" for nothing.
    """

    score: float | None = None
    words: str = ""


AskPerson = Callable[[Question], Opinion]
"""Asks, and returns once the person has answered. The run waits meanwhile."""
