"""The contract of every evaluator: it takes a sample and returns a score from 0 to 100 with its aspects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from PIL import Image

from agentfly.aio import TimeLimitExceeded, with_waiting_limit
from agentfly.errors import AgentFlyError, EvaluatorError

READY_SECONDS = 30.0  # of waiting, for all servers that one evaluator asks


@dataclass(frozen=True)
class EditSample:
    """One edit to be scored.

    Attributes:
        instruction: the request to the agent.
        source: the image before.
        result: the image after; None when the agent gave none.
        target: the wanted image, where it is known.
        mask: the pixels that must change (mode L, white = change), where they are known.
        metadata: further data of the task that some evaluators need, such as "checks" or captions.
        sources: all images of a task on several, `source` first; empty where `source` is the only one.
        references: images by name that were not shown to the agent, such as a benchmark's answer.
    """

    instruction: str
    source: Image.Image
    result: Image.Image | None
    target: Image.Image | None = None
    mask: Image.Image | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    sources: tuple[Image.Image, ...] = ()
    references: Mapping[str, Image.Image] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """A judgement.

    Attributes:
        value: 0 (useless) to 100 (as wanted).
        feedback: one or two sentences of reasons.
        aspects: named parts of the judgement, each 0 to 1 (a cosine may be below 0).
        relative: True if the value compares a sample with the others of its group, and means nothing outside of it.
    """

    value: float
    feedback: str = ""
    aspects: Mapping[str, float] = field(default_factory=dict)
    relative: bool = False


@dataclass(frozen=True)
class NotScored:
    """Stands for a score that could not be given."""

    reason: str


class Evaluator(Protocol):
    """Scores edits. Implementations hold no state between samples."""

    async def evaluate(self, sample: EditSample) -> Score:
        """Score one sample.

        Raises:
            EvaluatorError: the sample cannot be scored, because it lacks something that the evaluator needs.
        """
        ...


@runtime_checkable
class GroupEvaluator(Protocol):
    """An evaluator that can score the results of one task together; those that look at each alone leave this out."""

    @property
    def relative(self) -> bool:
        """True if the chains of a task must be scored together; `evaluate` is for a sample that has no group."""
        ...

    async def evaluate(self, sample: EditSample) -> Score:
        """Score one sample alone; see `Evaluator.evaluate`."""
        ...

    async def evaluate_group(self, samples: Sequence[EditSample]) -> list[Score | NotScored]:
        """Score the results of one task, all by the same measure, in their order.

        Args:
            samples: of one task: instruction and source are the same.

        Raises:
            PassingFault: none of them could be scored this time.
            ConfigError: the evaluator is set up wrongly.
        """
        ...


def is_relative(evaluator: Evaluator) -> bool:
    """Return True if an evaluator must see the results of a task together."""
    return isinstance(evaluator, GroupEvaluator) and evaluator.relative


async def score_or_reason(evaluator: Evaluator, sample: EditSample) -> Score | NotScored:
    """Return the score of one sample, or the reason why it has none.

    Args:
        evaluator: scores it.
        sample: any.
    """
    try:
        return await evaluator.evaluate(sample)
    except EvaluatorError as fault:
        return NotScored(str(fault))


@runtime_checkable
class Closable(Protocol):
    """An evaluator that holds connections or models; those that hold nothing leave this out."""

    async def close(self) -> None:
        """Free connections and models, in the event loop that they were used in. Safe to call twice."""
        ...


@runtime_checkable
class Sleeps(Protocol):
    """An evaluator whose model can leave its device to others for a while; those without a model leave this out."""

    async def sleep(self) -> bool:
        """Free the memory of the device; False if there is no model after all, such as in no part of a composite.

        Samples that come meanwhile are refused by a `PassingFault`.
        """
        ...

    async def wake(self) -> bool:
        """Take the memory again; False as above. The same samples get the same scores as before the sleep."""
        ...


@runtime_checkable
class MaySleep(Protocol):
    """An evaluator that has the methods of `Sleeps` for others, and knows if one of these has a model."""

    @property
    def can_sleep(self) -> bool:
        """True if there is a model."""
        ...


@runtime_checkable
class AsksOthers(Protocol):
    """An evaluator that depends on a server or a model; those that depend on neither leave this out."""

    async def check_ready(self) -> None:
        """Check without cost that samples could be scored now.

        Raises:
            EvaluatorError: they could not; the message names the address and the remedy.
            ConfigError: a key is missing or refused, or the server does not have what the settings name.
        """
        ...


@runtime_checkable
class NeedsOfSamples(Protocol):
    """An evaluator that cannot score every sample; those that can leave this out."""

    async def check_sample(self, sample: EditSample) -> None:
        """Check without cost that a sample has everything that its score needs, whatever the result is.

        Raises:
            EvaluatorError: something is missing.
        """
        ...


async def check_ready(evaluator: Evaluator) -> None:
    """Check that an evaluator could score now, if it depends on a server or a model.

    Raises:
        EvaluatorError: it could not, or it hangs: `READY_SECONDS` of waiting bring no answer, imports not counted.
        ConfigError: a key is missing or refused, or the server does not have what the settings name.
    """
    if not isinstance(evaluator, AsksOthers):
        return
    try:
        await with_waiting_limit(evaluator.check_ready(), READY_SECONDS)
    except TimeLimitExceeded:
        raise EvaluatorError(
            f"the evaluator did not say within {READY_SECONDS:g} s whether it can score: check that the server it "
            "asks runs"
        ) from None


async def check_sample(evaluator: Evaluator, sample: EditSample) -> None:
    """Check that a sample has everything that its score needs; evaluators without such a check accept every sample.

    Args:
        evaluator: the evaluator that is to score it.
        sample: the sample; its result does not matter.

    Raises:
        EvaluatorError: something is missing.
    """
    if isinstance(evaluator, NeedsOfSamples):
        await evaluator.check_sample(sample)


async def close_evaluator(evaluator: Evaluator) -> None:
    """Free the connections and models of an evaluator, if it has any. The evaluator's maker calls this."""
    if isinstance(evaluator, Closable):
        await evaluator.close()


def can_sleep(evaluator: Evaluator) -> bool:
    """Return True if an evaluator has a model that could sleep, or a server that may have one. Nothing is loaded."""
    return evaluator.can_sleep if isinstance(evaluator, MaySleep) else isinstance(evaluator, Sleeps)


async def sleep_evaluator(evaluator: Evaluator) -> bool:
    """Have an evaluator free the memory of its device; False if it has no model that could.

    Raises:
        EvaluatorError: a server that holds the model did not do it.
    """
    return isinstance(evaluator, Sleeps) and await evaluator.sleep()


async def wake_evaluator(evaluator: Evaluator) -> bool:
    """Have an evaluator that sleeps take the memory of its device again; False if it has no model that could.

    Raises:
        EvaluatorError: a server that holds the model did not do it.
    """
    return isinstance(evaluator, Sleeps) and await evaluator.wake()


async def objections(checks: Mapping[str, Awaitable[None]]) -> list[str]:
    """Run several checks at once and return the messages of those that fail, each behind its name.

    Args:
        checks: `check_ready` or `check_sample` of each evaluator, by the name for messages.
    """
    answers = await asyncio.gather(*checks.values(), return_exceptions=True)
    faults: list[str] = []
    for name, answer in zip(checks, answers, strict=True):
        if isinstance(answer, AgentFlyError):
            faults.append(f"{name}: {answer}")
        elif isinstance(answer, BaseException):
            raise answer
    return faults
