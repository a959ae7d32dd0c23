"""One run: conversations become chains, chains become trajectories, and finished ones go to the journal.

A chain is made when it starts, so that a large run holds only the images of the chains in progress. The images of a
conversation are loaded once for all its chains, off the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from agentfly.agents.inputs import conversations, fingerprint, group_ids, read_messages
from agentfly.agents.result import RunResult
from agentfly.agents.rollout import Rollout
from agentfly.agents.run_log import Journal
from agentfly.agents.streaming import ChainEnd, ChainStart, ErrorRaised, RunEnd, RunStart
from agentfly.agents.trajectory import StopReason, Trajectory
from agentfly.aio import gather_or_cancel
from agentfly.errors import AgentFlyError, ConfigError, ImageError
from agentfly.images import ImageStore, load_image
from agentfly.messages import Message, text_message

if TYPE_CHECKING:
    from agentfly.agents.agent import Agent

logger = logging.getLogger(__name__)

# Names of the chains that run in this process, whatever their agent: agents may share a backend.
_SESSIONS: set[str] = set()


@dataclass
class _Slot:
    """The place of one chain in the result."""

    group: int
    conversation: Mapping[str, Any]
    trajectory: Trajectory
    resumed: bool = False


@dataclass
class Run:
    """Runs conversations of an agent.

    Attributes:
        agent: makes the chains.
        rollout: runs them.
        num_chains: of each conversation.
        log_dir: see `Journal`; None for a run that is only in memory.
    """

    agent: Agent
    rollout: Rollout
    num_chains: int = 1
    log_dir: str | Path | None = None
    _slots: list[_Slot] = field(default_factory=list, init=False)
    _loaded: dict[int, asyncio.Task[list[Message]]] = field(default_factory=dict, init=False)

    async def __call__(self, messages: Any) -> RunResult:
        """Run to the end; when it is cancelled, the agent's result has what is done."""
        begun = time.monotonic()
        try:
            result = await self._run(messages)
        except BaseException as fault:
            words = str(fault) if isinstance(fault, AgentFlyError) else f"{type(fault).__name__}: {fault}"
            stopped = isinstance(fault, asyncio.CancelledError)
            await self.rollout.tell(ErrorRaised(None, "the run was cancelled" if stopped else words))
            kept = self._stopped() if stopped else None
            await self.rollout.tell(RunEnd(kept, "cancelled" if stopped else words, time.monotonic() - begun))
            raise
        await self.rollout.tell(RunEnd(result, None, time.monotonic() - begun))
        return result

    async def _run(self, messages: Any) -> RunResult:
        found = conversations(messages)
        journal = await asyncio.to_thread(Journal, self.log_dir) if self.log_dir is not None else None
        try:
            await asyncio.to_thread(self._plan, found, journal)
            chains = tuple(slot.trajectory.id for slot in self._slots)
            resumed = tuple(slot.trajectory.id for slot in self._slots if slot.resumed)
            await self.rollout.tell(RunStart(chains, resumed))
            store = self.agent.store if journal is None else journal.images
            self.agent.store.look_in(store)
            gate = asyncio.Semaphore(self.agent.settings.max_concurrent_chains)
            await gather_or_cancel(self._chain(slot, store, journal, gate) for slot in self._slots if not slot.resumed)
        finally:
            for task in self._loaded.values():
                task.cancel()
            if journal is not None:
                journal.close()
        return self._keep()

    def _plan(self, found: Sequence[Mapping[str, Any]], journal: Journal | None) -> None:
        run, system = uuid4().hex[:8], self.agent.settings.system_prompt
        prints = [fingerprint(conversation, system) if journal else "" for conversation in found]
        groups = group_ids(found, [print_ or f"{run}-{index}" for index, print_ in enumerate(prints)])
        for index, (conversation, group, print_) in enumerate(zip(found, groups, prints, strict=True)):
            for number in range(self.num_chains):
                slot = _Slot(index, conversation, Trajectory(f"{group}-{number}", group, []))
                done = journal.resume(slot.trajectory.id, print_) if journal else None
                if done is not None:
                    slot.trajectory, slot.resumed = done, True
                self._slots.append(slot)

    async def _chain(self, slot: _Slot, store: ImageStore, journal: Journal | None, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                messages = await self._load(slot, store)
            except ImageError as fault:
                await self._unloadable(slot, fault)
            else:
                await self._roll(slot, messages, store)
            if journal is not None and slot.trajectory.stop_reason is not StopReason.CANCELLED:
                await asyncio.to_thread(self._copy_images, slot.trajectory, journal.images)
                await journal.append(slot.trajectory)

    async def _roll(self, slot: _Slot, messages: Sequence[Message], store: ImageStore) -> None:
        trajectory = slot.trajectory
        number = int(trajectory.id.rpartition("-")[2])
        chain = self.agent.chain({**slot.conversation, "messages": messages}, trajectory.group_id, number, store=store)
        chain.session = _open_session(chain.trajectory.id)
        slot.trajectory = chain.trajectory
        try:
            await self.rollout.run(chain)
        finally:
            _SESSIONS.discard(chain.session)

    async def _load(self, slot: _Slot, store: ImageStore) -> list[Message]:
        """The messages of a conversation, loaded by the first of its chains."""

        def load() -> list[Message]:
            limits = self.agent.settings.image_limits
            return read_messages(slot.conversation, lambda source: store.put(load_image(source, limits)))

        if slot.group not in self._loaded:
            self._loaded[slot.group] = asyncio.ensure_future(asyncio.to_thread(load))
        # Shielded: the chains of a group wait for one task, and one that is cancelled must not take it along.
        return await asyncio.shield(self._loaded[slot.group])

    async def _unloadable(self, slot: _Slot, fault: ImageError) -> None:
        """An image cannot be loaded: nothing to run if it is all there is, one failed chain among others."""
        if slot.group == self._slots[-1].group == 0:
            raise fault
        trajectory = slot.trajectory
        await self.rollout.tell(ChainStart(trajectory.id))
        trajectory.stop_reason, trajectory.error = StopReason.ERROR, str(fault)
        told = read_messages(slot.conversation, lambda _: "")
        trajectory.messages = [text_message(message.role, message.text) for message in told]
        trajectory.metadata = metadata_of(slot.conversation)
        await self.rollout.tell(ErrorRaised(trajectory.id, str(fault)))
        await self.rollout.tell(ChainEnd(trajectory.id, StopReason.ERROR, 0.0))

    def _copy_images(self, trajectory: Trajectory, images: ImageStore) -> None:
        """Images that a tool put into the agent's own store go to the log as well."""
        for handle in {*trajectory.names.values(), *trajectory.images, trajectory.final_image}:
            if handle is not None and handle not in images:
                images.put(self.agent.store.get(handle))

    def _stopped(self) -> RunResult:
        for slot in self._slots:
            if slot.trajectory.stop_reason is None:
                slot.trajectory.stop_reason = StopReason.CANCELLED
        return self._keep()

    def _keep(self) -> RunResult:
        self.agent.result = RunResult(tuple(slot.trajectory for slot in self._slots), self.agent.store)
        return self.agent.result


def metadata_of(conversation: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of a conversation beside its messages."""
    return {key: value for key, value in conversation.items() if key != "messages"}


def check_number(name: str, value: Any) -> None:
    """Refuse what is no whole number from 1.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}={value!r}: a whole number from 1 is needed")


def _open_session(chain: str) -> str:
    session, count = chain, 1
    while session in _SESSIONS:
        count += 1
        session = f"{chain}.{count}"
    _SESSIONS.add(session)
    return session
