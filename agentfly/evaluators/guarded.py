"""Score many samples with limits: samples at the same time, seconds and attempts for each.

A sample that cannot be scored is reported as "not scored" with its reason. It never gets a middle value, because a
trainer would learn from it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from pydantic import Field

from agentfly.aio import (
    CancelledItself,
    LoopLocal,
    Sleep,
    TimeLimitExceeded,
    gather_or_cancel,
    retrying,
    with_timeout,
)
from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators.base import (
    EditSample,
    Evaluator,
    GroupEvaluator,
    NotScored,
    Score,
    can_sleep,
    check_ready,
    check_sample,
    close_evaluator,
    is_relative,
    sleep_evaluator,
    wake_evaluator,
)
from agentfly.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")


class PassingFault(EvaluatorError):
    """No score this time, but the same sample may be scored later (time-out, overload).

    Args:
        message: the reason.
        wait: seconds that a server asks to wait before the next attempt.
    """

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


class GuardSettings(Settings):
    """Limits of evaluations.

    Attributes:
        in_flight: evaluations that run at once.
        timeout: seconds for one attempt.
        attempts: attempts at a sample, the first included; only a `PassingFault` is tried again.
        first_wait: seconds before the second attempt, doubled for each further one.
        max_wait: seconds between two attempts at most.
    """

    in_flight: int = Field(16, ge=1)
    timeout: float = Field(300.0, gt=0)
    attempts: int = Field(3, ge=1)
    first_wait: float = Field(0.5, ge=0)
    max_wait: float = Field(10.0, ge=0)

    def wait(self, attempt: int) -> float:
        """Return the seconds to wait after attempt number `attempt`, counted from 0."""
        return min(self.max_wait, self.first_wait * 2.0**attempt)

    @property
    def longest(self) -> float:
        """Seconds that one sample may take: all attempts and the waits between them, without waiting for a slot."""
        return self.timeout * self.attempts + sum(self.wait(attempt) for attempt in range(self.attempts - 1))


class GuardedEvaluator:
    """An evaluator with limits. Chains that finish at different times share them through this one object.

    Args:
        evaluator: does the work.
        settings: the limits.
        sleep: waits for some seconds between attempts.
    """

    def __init__(
        self, evaluator: Evaluator, settings: GuardSettings | None = None, *, sleep: Sleep = asyncio.sleep
    ) -> None:
        self.evaluator = evaluator
        self.settings = settings or GuardSettings()
        self._sleep = sleep
        self._slots = LoopLocal(lambda: asyncio.Semaphore(self.settings.in_flight))

    async def evaluate(self, sample: EditSample) -> Score:
        """Score one sample. A slot is held while an attempt runs, but not between attempts.

        Raises:
            EvaluatorError: there is no score, after all attempts where the fault may pass.
            ConfigError: the evaluator is set up wrongly, so that it can score nothing.
        """
        return checked(await self._attempted(lambda: self.evaluator.evaluate(sample)))

    @property
    def relative(self) -> bool:
        """See `GroupEvaluator.relative`."""
        return is_relative(self.evaluator)

    async def evaluate_group(self, samples: Sequence[EditSample]) -> list[Score | NotScored]:
        """Score the results of one task; see `GroupEvaluator.evaluate_group`.

        A group takes one slot, and as long as one sample may. An evaluator that looks at each sample alone scores them
        one by one, each with its own slot and time.

        Raises:
            EvaluatorError: the group could not be scored, after all attempts where the fault may pass.
            ConfigError: the evaluator is set up wrongly.
        """
        group = self.evaluator
        if not isinstance(group, GroupEvaluator) or not group.relative:
            return await self.evaluate_many(samples)
        scores = await self._attempted(lambda: group.evaluate_group(samples))
        found: list[Score | NotScored] = []
        for score in scores:
            try:
                found.append(score if isinstance(score, NotScored) else checked(score))
            except EvaluatorError as fault:
                found.append(NotScored(str(fault)))
        return found

    async def evaluate_many(self, samples: Iterable[EditSample]) -> list[Score | NotScored]:
        """Return scores in the order of the samples; a failure concerns its own sample only.

        Raises:
            ConfigError: the evaluator is set up wrongly. Attempts under way are cancelled.
        """
        return await gather_or_cancel(self._outcome(sample) for sample in samples)

    async def check_ready(self) -> None:
        """Check the evaluator; see `AsksOthers.check_ready`."""
        await check_ready(self.evaluator)

    async def check_sample(self, sample: EditSample) -> None:
        """Check the sample; see `NeedsOfSamples.check_sample`."""
        await check_sample(self.evaluator, sample)

    @property
    def can_sleep(self) -> bool:
        """See `MaySleep`."""
        return can_sleep(self.evaluator)

    async def sleep(self) -> bool:
        """Have the evaluator free its device, if it has one; see `Sleeps`."""
        return await sleep_evaluator(self.evaluator)

    async def wake(self) -> bool:
        """Wake the evaluator; see `Sleeps`."""
        return await wake_evaluator(self.evaluator)

    async def close(self) -> None:
        """Close the evaluator."""
        await close_evaluator(self.evaluator)

    async def _attempted(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        attempts = retrying(
            self.settings.attempts, PassingFault, lambda attempt, _: self.settings.wait(attempt), sleep=self._sleep
        )
        try:
            result: T = await attempts(self._attempt, work)
        except PassingFault as fault:
            raise EvaluatorError(f"not scored in {self.settings.attempts} attempts: {fault}") from fault
        return result

    async def _attempt(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._slots.get():
            try:
                return await with_timeout(work(), self.settings.timeout)
            except TimeLimitExceeded as fault:
                raise PassingFault(f"no score within {self.settings.timeout:g} s") from fault
            except CancelledItself as fault:
                raise PassingFault("the evaluator cancelled itself") from fault

    async def _outcome(self, sample: EditSample) -> Score | NotScored:
        try:
            return await self.evaluate(sample)
        except ConfigError:
            raise
        except EvaluatorError as fault:
            return NotScored(str(fault))
        except Exception as fault:  # a bug on one sample must not end the batch
            logger.exception("the evaluator failed")
            return NotScored(f"{type(fault).__name__}: {fault}")


async def evaluate_many(
    evaluator: Evaluator, samples: Iterable[EditSample], settings: GuardSettings | None = None
) -> list[Score | NotScored]:
    """Score samples at once; see `GuardedEvaluator.evaluate_many`.

    Args:
        evaluator: scores them.
        samples: any number.
        settings: the limits; None for the defaults.

    Raises:
        ConfigError: the evaluator is set up wrongly.
    """
    return await GuardedEvaluator(evaluator, settings).evaluate_many(samples)


def checked(score: Score) -> Score:
    """Return the score as it is.

    Raises:
        EvaluatorError: its value is not a number from 0 to 100.
    """
    if not 0.0 <= score.value <= 100.0:
        raise EvaluatorError(f"the evaluator gave {score.value}, which is no score from 0 to 100")
    return score
