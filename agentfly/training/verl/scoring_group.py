"""Chains of one prompt that wait for each other, so that they can be scored together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from agentfly.training.verl.messages import FinishedChain, ScoredChain, UnscoredChain

logger = logging.getLogger(__name__)

Answer = ScoredChain | UnscoredChain
AskForScores = Callable[[Sequence[FinishedChain]], Awaitable[Sequence[Answer]]]


class ScoringGroup:
    """The chains of a prompt: when each has either finished or left, those that have finished are scored together.

    A chain that finishes after the limit is not scored: alone it would be measured by another measure than the others.

    Args:
        size: number of chains.
        ask: scores chains, together where there are several.
        limit: seconds from the first chain that has finished until the others are waited for no more.
    """

    def __init__(self, size: int, ask: AskForScores, limit: float) -> None:
        self._missing = set(range(size))
        self._ask, self._limit = ask, limit
        self._finished: dict[int, FinishedChain] = {}
        self._answers: asyncio.Task[dict[int, Answer]] | None = None
        self._all_there = asyncio.Event()

    async def score(self, member: int, chain: FinishedChain) -> Answer:
        """Wait for the other chains, and return the answer for this one.

        Args:
            member: its number in the group, from 0.
            chain: finished.
        """
        if self._all_there.is_set():
            return UnscoredChain(f"the other chains of its prompt had waited {self._limit:.0f} s for it")
        self._finished[member] = chain
        if self._answers is None:
            self._answers = asyncio.create_task(self._together())
        self.leave(member)
        # A chain that is cancelled must not take the answers of the others with it.
        return (await asyncio.shield(self._answers))[member]

    def leave(self, member: int) -> None:
        """Let the others no longer wait for a chain; nothing happens if it has finished or left before."""
        self._missing.discard(member)
        if not self._missing:
            self._all_there.set()

    async def _together(self) -> dict[int, Answer]:
        try:
            await asyncio.wait_for(self._all_there.wait(), self._limit)
        except TimeoutError:
            logger.warning("a group is scored without %d chains that are not there yet", len(self._missing))
            self._all_there.set()
        chains = dict(self._finished)
        return dict(zip(chains, await self._ask(list(chains.values())), strict=True))
