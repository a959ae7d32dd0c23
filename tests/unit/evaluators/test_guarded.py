"""Batches of samples: bounded, in order, retried where it may help, and never a score that nobody gave."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest
from PIL import Image

from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators import EditSample, GuardedEvaluator, GuardSettings, NotScored, PassingFault, Score

IMAGE = Image.new("RGB", (4, 4))


def sample(number: int = 0) -> EditSample:
    return EditSample(str(number), IMAGE, IMAGE)


class Scripted:
    """Does what a function says, and counts."""

    def __init__(self, work: Callable[[int, int], Awaitable[Score] | Score]) -> None:
        self.work = work
        self.calls: list[int] = []
        self.now = self.most = 0

    async def evaluate(self, sample: EditSample) -> Score:
        number = int(sample.instruction)
        self.calls.append(number)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0)
            found = self.work(number, self.calls.count(number))
            return found if isinstance(found, Score) else await found
        finally:
            self.now -= 1


def guarded(evaluator: Scripted, waits: list[float] | None = None, **settings: float) -> GuardedEvaluator:
    async def sleep(seconds: float) -> None:
        if waits is not None:
            waits.append(seconds)

    return GuardedEvaluator(evaluator, GuardSettings(**settings), sleep=sleep)


async def test_scores_come_in_order_with_a_bounded_number_in_flight() -> None:
    evaluator = Scripted(lambda number, attempt: Score(number))
    outcomes = await guarded(evaluator, in_flight=3).evaluate_many(sample(n) for n in range(20))
    assert [o.value for o in outcomes if isinstance(o, Score)] == list(range(20))
    assert evaluator.most == 3


async def test_the_bound_holds_for_chains_that_come_one_by_one() -> None:
    evaluator = Scripted(lambda number, attempt: Score(number))
    shared = guarded(evaluator, in_flight=2)
    await asyncio.gather(*(shared.evaluate(sample(n)) for n in range(9)))
    assert evaluator.most == 2


async def test_a_passing_fault_is_tried_again_with_growing_waits() -> None:
    def work(number: int, attempt: int) -> Score:
        if attempt < 4:
            raise PassingFault("busy")
        return Score(50)

    waits: list[float] = []
    evaluator = Scripted(work)
    assert (await guarded(evaluator, waits, attempts=4, first_wait=1, max_wait=3).evaluate(sample())).value == 50
    assert waits == [1, 2, 3]
    with pytest.raises(EvaluatorError, match="not scored in 2 attempts: busy"):
        await guarded(Scripted(work), attempts=2).evaluate(sample())


async def test_what_fails_is_told_with_its_reason_and_ends_nothing_else() -> None:
    def work(number: int, attempt: int) -> Score:
        if number == 1:
            raise EvaluatorError("no mask")
        if number == 2:
            raise KeyError("a bug")
        return Score({3: math.nan, 4: 101, 5: 10**400}.get(number, 10))

    evaluator = Scripted(work)
    outcomes = await guarded(evaluator).evaluate_many(sample(n) for n in range(6))
    assert outcomes[0] == Score(10)
    assert [isinstance(outcome, NotScored) for outcome in outcomes] == [False, True, True, True, True, True]
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, NotScored)]
    assert "no mask" in reasons[0]
    assert "KeyError" in reasons[1]
    assert "gave nan" in reasons[2]
    assert "gave 101" in reasons[3]
    assert "gave 1000" in reasons[4]
    assert sorted(evaluator.calls) == [0, 1, 2, 3, 4, 5]


async def test_an_evaluation_that_hangs_is_given_up_and_frees_its_place() -> None:
    async def forever() -> Score:
        await asyncio.Event().wait()
        raise AssertionError

    evaluator = Scripted(lambda number, attempt: forever() if number == 0 else Score(7))
    outcomes = await guarded(evaluator, timeout=0.05, attempts=2, in_flight=1).evaluate_many([sample(0), sample(1)])
    assert isinstance(outcomes[0], NotScored)
    assert "no score within 0.05 s" in outcomes[0].reason
    assert outcomes[1] == Score(7)
    assert evaluator.calls.count(0) == 2


async def test_a_wrong_configuration_ends_the_batch_at_once() -> None:
    cancelled = asyncio.Event()

    async def slow() -> Score:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    async def refused() -> Score:
        raise ConfigError("wrong key")

    evaluator = Scripted(lambda number, attempt: slow() if number == 0 else refused())
    with pytest.raises(ConfigError, match="wrong key"):
        await guarded(evaluator).evaluate_many([sample(0), sample(1)])
    await asyncio.wait_for(cancelled.wait(), 5)


def test_one_guard_serves_one_event_loop_after_another() -> None:
    shared = guarded(Scripted(lambda number, attempt: Score(5)), in_flight=1)
    for _ in range(2):
        assert len(asyncio.run(shared.evaluate_many(sample(n) for n in range(4)))) == 4
