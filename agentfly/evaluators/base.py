"""The contract of every evaluator: it takes a sample and returns a score from 0 to 100 with its aspects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from agentfly.aio import TimeLimitExceeded, with_timeout
from agentfly.errors import AgentFlyError, EvaluatorError

READY_SECONDS = 10.0  # for everybody whom one evaluator asks


@dataclass(frozen=True)
class EditSample:
    """What an evaluator looks at.

    Attributes:
        instruction: what was asked.
        source: the image before.
        result: the image after; None when the agent gave none.
        target: the wanted image, where it is known.
        mask: where the image must change (mode L, white = change), where it is known.
        metadata: of the task: what an evaluator beyond images needs, such as "checks" or captions.
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


@runtime_checkable
class AsksOthers(Protocol):
    """An evaluator that depends on a server or a model; those that depend on nobody leave this out."""

    async def check_ready(self) -> None:
        """Find out, without cost, whether samples could be scored now.

        Raises:
            EvaluatorError: they could not; the message names the address and what to do.
            ConfigError: a key is missing or refused, or the server does not have what the settings name.
        """
        ...


@runtime_checkable
class NeedsOfSamples(Protocol):
    """An evaluator that cannot score every sample; those that can leave this out."""

    async def check_sample(self, sample: EditSample) -> None:
        """Find out, without cost and whatever the result is, whether a sample has what its score needs.

        Raises:
            EvaluatorError: it has not.
        """
        ...


async def check_ready(evaluator: Evaluator) -> None:
    """Ask an evaluator whether it could score now, where it depends on somebody else.

    Raises:
        EvaluatorError: it could not, or nobody answers within `READY_SECONDS`.
        ConfigError: a key is missing or refused, or the server does not have what the settings name.
    """
    if not isinstance(evaluator, AsksOthers):
        return
    try:
        await with_timeout(evaluator.check_ready(), READY_SECONDS)
    except TimeLimitExceeded:
        raise EvaluatorError(
            f"the evaluator did not say within {READY_SECONDS:g} s whether it can score: check that the server it "
            "asks runs"
        ) from None


async def check_sample(evaluator: Evaluator, sample: EditSample) -> None:
    """Ask an evaluator whether a sample has what its score needs; one that does not know is believed.

    Raises:
        EvaluatorError: the sample has not.
    """
    if isinstance(evaluator, NeedsOfSamples):
        await evaluator.check_sample(sample)


async def close_evaluator(evaluator: Evaluator) -> None:
    """Free what an evaluator holds, where it holds anything; whoever made the evaluator calls this."""
    if isinstance(evaluator, Closable):
        await evaluator.close()


async def objections(questions: Mapping[str, Coroutine[Any, Any, None]]) -> list[str]:
    """Ask several at once whether they could score, and return what they object, each behind its name.

    Args:
        questions: `check_ready` or `check_sample` of each, by the name for messages.
    """
    answers = await asyncio.gather(*questions.values(), return_exceptions=True)
    faults: list[str] = []
    for name, answer in zip(questions, answers, strict=True):
        if isinstance(answer, AgentFlyError):
            faults.append(f"{name}: {answer}")
        elif isinstance(answer, BaseException):
            raise answer
    return faults
