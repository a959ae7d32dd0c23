"""The contract of every evaluator: it takes a sample and returns a score from 0 to 100 with its aspects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from PIL import Image


@dataclass(frozen=True)
class EditSample:
    """What an evaluator looks at.

    Attributes:
        instruction: what was asked.
        source: the picture before.
        result: the picture after; None when the agent gave none.
        target: the wanted picture, where it is known.
        mask: where the picture must change (mode L, white = change), where it is known.
        metadata: of the task: what an evaluator beyond pictures needs, such as "checks" or captions.
    """

    instruction: str
    source: Image.Image
    result: Image.Image | None
    target: Image.Image | None = None
    mask: Image.Image | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """A judgement.

    Attributes:
        value: 0 (useless) to 100 (as wanted).
        feedback: one or two sentences that say why.
        aspects: named parts of the judgement, each 0 to 1.
    """

    value: float
    feedback: str = ""
    aspects: Mapping[str, float] = field(default_factory=dict)


class Evaluator(Protocol):
    """Scores edits. Implementations hold no state between samples."""

    async def evaluate(self, sample: EditSample) -> Score:
        """Score one sample.

        Raises:
            EvaluatorError: the sample cannot be scored (what the evaluator needs is missing).
        """
        ...


@runtime_checkable
class Closable(Protocol):
    """An evaluator that holds something (connections, models); those that hold nothing leave this out."""

    async def close(self) -> None:
        """Free what is held, in the event loop that it was used in. Safe to call twice."""
        ...


async def close_evaluator(evaluator: Evaluator) -> None:
    """Free what an evaluator holds, where it holds anything; whoever made the evaluator calls this."""
    if isinstance(evaluator, Closable):
        await evaluator.close()
