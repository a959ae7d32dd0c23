"""The evaluator servers of a run, asleep but for the rollouts: a learned reward then shares a GPU with the trainer.

    start    rollout    update    rollout    update    validation    end
    asleep   awake      asleep    awake      asleep    awake         awake

Chains are scored while others are still sampled, so the reward is awake for as long as the rollout engine is. The
trainer's process tells the servers: they sleep when its replay buffer is made, which is before the engines are, and
once a batch is complete; they wake before prompts are handed out. The launcher leaves them awake.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agentfly.aio import TimeLimitExceeded, retrying, with_timeout
from agentfly.errors import AgentFlyError, TrainingError
from agentfly.evaluators import Evaluator, PassingFault, make_evaluator
from agentfly.evaluators.base import close_evaluator, sleep_evaluator, wake_evaluator
from agentfly.redaction import public_url
from agentfly.training.recipe.settings import TrainSettings

logger = logging.getLogger(__name__)

Change = Callable[[Evaluator], Awaitable[bool]]

_LEAVE_SECONDS = 30.0  # at the end of a run, which a person may be waiting for


class EvaluatorServers:
    """The servers that `TrainSettings.sleeping_evaluators` names; where it names none, nothing is done.

    A change is asked for every time: to wake who is awake changes nothing, and a server may have been started anew.

    Args:
        settings: of the run. A request may take `guard.timeout`, and to wake is tried `guard.attempts` times.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self._servers = {public_url(str(spec["base_url"])): spec for spec in settings.sleeping_evaluators}
        self._guard = settings.guard
        self._seconds: dict[str, float] = {}
        self._warned: set[str] = set()

    def wake(self) -> None:
        """Wake all servers.

        Raises:
            TrainingError: one did not wake, so that no chain could be scored.
        """
        found = self._tell("wake", wake_evaluator, self._guard.attempts, self._guard.timeout)
        if faults := [str(answer) for answer in found.values() if isinstance(answer, AgentFlyError)]:
            raise TrainingError(
                f"no chain could be scored, for a server of agentfly.evaluator_sleep did not wake: {'; '.join(faults)}"
            )

    def sleep(self) -> None:
        """Have all servers sleep; warn of those that do not, once for each reason: there may be room for both."""
        found = self._tell("sleep", sleep_evaluator, 1, self._guard.timeout)
        for address, answer in found.items():
            if isinstance(answer, AgentFlyError):
                self._warn(f"the model of an evaluator stays on its device during updates: {answer}")
            elif not answer:
                self._warn(
                    f"the evaluator at {address} has no model that could sleep, and keeps its memory during updates: "
                    "leave agentfly.evaluator_sleep out"
                )

    def leave_awake(self) -> list[str]:
        """Wake all servers at the end of a run, for others; return the reasons of those that did not."""
        found = self._tell("wake", wake_evaluator, 1, min(_LEAVE_SECONDS, self._guard.timeout))
        return [f"an evaluator is left asleep: {fault}" for fault in found.values() if isinstance(fault, AgentFlyError)]

    def take_metrics(self) -> dict[str, float]:
        """Return the seconds since the last call that were spent on waiting for the servers, by verl's kind of name."""
        taken, self._seconds = self._seconds, {}
        return {f"timing_s/evaluator_{name}": seconds for name, seconds in taken.items()}

    def _tell(self, name: str, change: Change, attempts: int, limit: float) -> Mapping[str, bool | AgentFlyError]:
        """Ask all servers at once for a change; return the answer of each, or its error, by its address."""
        if not self._servers:
            return {}
        began = time.monotonic()
        answers = asyncio.run(self._tell_all(change, attempts, limit))
        seconds = time.monotonic() - began
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        logger.info("agentfly: %s of %d evaluator server(s), %.2f s", name, len(self._servers), seconds)
        return answers

    async def _tell_all(self, change: Change, attempts: int, limit: float) -> dict[str, bool | AgentFlyError]:
        async def tell(spec: Mapping[str, Any]) -> bool | AgentFlyError:
            evaluator = make_evaluator(spec)
            ask = retrying(attempts, PassingFault, lambda attempt, _: self._guard.wait(attempt))
            try:
                answer: bool = await ask(_within, change, evaluator, limit)
            except AgentFlyError as fault:
                return fault
            finally:
                await close_evaluator(evaluator)
            return answer

        return dict(zip(self._servers, await asyncio.gather(*map(tell, self._servers.values())), strict=True))

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s; training goes on", text)


async def _within(change: Change, evaluator: Evaluator, limit: float) -> bool:
    async def work() -> bool:
        return await change(evaluator)

    try:
        return await with_timeout(work(), limit)
    except TimeLimitExceeded:
        raise PassingFault(f"the evaluator did not answer within {limit:g} s (agentfly.guard.timeout)") from None


_shared: tuple[TrainSettings, EvaluatorServers] | None = None


def servers_of(settings: TrainSettings) -> EvaluatorServers:
    """Return the servers of a run, the same ones for all that verl makes in this process.

    Args:
        settings: of the run; another object means another run. `agentfly.training.recipe.compose.settings_of` gives
            equal sections the same object.
    """
    global _shared
    if _shared is None or _shared[0] is not settings:
        _shared = settings, EvaluatorServers(settings)
    return _shared[1]
