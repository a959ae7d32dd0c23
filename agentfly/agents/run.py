"""One run: make chains of conversations, run them, and write the finished ones to the log folder.

A chain is made when it starts, so that a large run holds only the images of the chains in progress. The images of a
conversation are loaded once for all its chains, off the event loop.

A log folder holds `trajectories.jsonl` and the images in `images/`. A line is written in one append and synced, after
its images, before its chain counts as finished. So a process that is killed at any moment loses only the chains in
progress; at most the last line is incomplete, and the next start removes it. A second start returns what is finished
and runs the rest. Chains that ended with a fault (`StopReason.failed`) run again and then have a second line; the last
line of a chain counts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from agentfly.agents.chain import AgentSettings, Chain
from agentfly.agents.inputs import OneConversation, conversations, fingerprint, group_ids, read_messages
from agentfly.agents.result import RunResult
from agentfly.agents.rollout import Rollout
from agentfly.agents.streaming import ChainEnd, ChainStart, ErrorRaised, RunEnd, RunStart
from agentfly.agents.trajectory import StopReason, Trajectory
from agentfly.agents.trajectory_file import FILE_NAME, IMAGES, TrajectoryLine, read_trajectories
from agentfly.aio import gather_or_cancel
from agentfly.errors import AgentFlyError, ConfigError, ImageError, one_line
from agentfly.files import LineFile
from agentfly.images import ImageSource, ImageStore, load_image
from agentfly.importing import described
from agentfly.messages import Message, text_message

logger = logging.getLogger(__name__)

# Names of the chains that run in this process, whatever their agent: agents may share a backend.
_SESSIONS: set[str] = set()


class RunLog:
    """The log folder of a run; one run at a time writes to it.

    Args:
        folder: made when it is not there.

    Attributes:
        images: store of the images in the folder.
        finished: chains of earlier runs by id, without those that a fault ended.

    Raises:
        ConfigError: another run writes to the folder, or its file is damaged beyond the last line.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.images = ImageStore(self.folder / IMAGES)
        self.finished: dict[str, Trajectory] = {}
        self._fingerprints: dict[str, str] = {}
        self._lines = LineFile(self.folder / FILE_NAME, f"log_dir={str(self.folder)!r}")
        try:
            self._lines.repair()
            for number, line in read_trajectories(self._lines.path):
                trajectory = line.trajectory
                if line.fingerprint is None:
                    raise ConfigError(
                        f"{self._lines.path}, line {number} is of another kind of run: use another log_dir"
                    )
                self._fingerprints[trajectory.id] = line.fingerprint
                if trajectory.failed:
                    self.finished.pop(trajectory.id, None)
                else:
                    self.finished[trajectory.id] = trajectory
        except BaseException:
            self.close()
            raise

    def resume(self, chain: str, fingerprint: str) -> Trajectory | None:
        """Return the trajectory of a finished chain; None for any other.

        Raises:
            ConfigError: the folder has a chain of this id, but of another conversation.
        """
        known = self._fingerprints.setdefault(chain, fingerprint)
        if known != fingerprint:
            raise ConfigError(
                f"log_dir={str(self.folder)!r} has another conversation under the id {chain!r}; "
                "use another log_dir, or give the conversation another id"
            )
        return self.finished.get(chain)

    async def append(self, trajectory: Trajectory) -> None:
        """Write a finished chain; when this returns, it and its images are on disk."""
        line = TrajectoryLine(trajectory, fingerprint=self._fingerprints.get(trajectory.id, ""))

        def write() -> None:
            self.images.sync()
            self._lines.append(line.to_json())

        await asyncio.to_thread(write)

    def close(self) -> None:
        """Release the folder. Safe to call twice."""
        self._lines.close()


class ChainMaker(Protocol):
    """The part of an agent that a run needs; see `Agent`."""

    settings: AgentSettings
    store: ImageStore
    result: RunResult

    async def prepare(self) -> None: ...

    def system_prompt(self, metadata: Mapping[str, object]) -> str | None: ...

    def chain(
        self, conversation: OneConversation, group_id: str, number: int = 0, *, store: ImageStore | None = None
    ) -> Chain: ...


@dataclass
class _Slot:
    """The place of one chain in the result."""

    group: int
    conversation: OneConversation
    trajectory: Trajectory
    resumed: bool = False


@dataclass
class Run:
    """Run conversations of an agent.

    Attributes:
        agent: makes the chains, and receives the result.
        rollout: runs them.
        num_chains: of each conversation.
        log_dir: see `RunLog`; None for a run that is only in memory.
    """

    agent: ChainMaker
    rollout: Rollout
    num_chains: int = 1
    log_dir: str | Path | None = None
    _slots: list[_Slot] = field(default_factory=list, init=False)
    _loaded: dict[int, asyncio.Task[list[Message]]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        given: object = self.log_dir
        if given is not None and (not isinstance(given, str | Path) or not str(given).strip()):
            raise ConfigError(f"log_dir={self.log_dir!r} names no folder: give its path, or leave log_dir out")

    async def __call__(self, messages: object) -> RunResult:
        """Run to the end. When the run is cancelled, the agent's result holds the chains so far."""
        begun = time.monotonic()
        try:
            found = conversations(messages)
            result = await self._run(found)
        except BaseException as fault:
            words = str(fault) if isinstance(fault, AgentFlyError) else f"{type(fault).__name__}: {fault}"
            stopped = isinstance(fault, asyncio.CancelledError)
            await self.rollout.emit(ErrorRaised(None, "the run was cancelled" if stopped else words))
            for slot in self._slots if stopped else ():
                if slot.trajectory.stop_reason is None:
                    slot.trajectory.stop_reason = StopReason.CANCELLED
            kept = self._keep() if stopped else None
            await self.rollout.emit(RunEnd(kept, "cancelled" if stopped else words, time.monotonic() - begun))
            raise
        await self.rollout.emit(RunEnd(result, None, time.monotonic() - begun))
        return result

    @contextmanager
    def _named_folder(self) -> Iterator[None]:
        """Turn a fault of the disk, from what is written to the log folder, into an error that names the folder."""
        try:
            yield
        except OSError as fault:
            if self.log_dir is None:
                raise
            raise ConfigError(f"log_dir={str(self.log_dir)!r} cannot be written: {one_line(fault) or fault}") from fault

    async def _run(self, found: Sequence[OneConversation]) -> RunResult:
        await self.agent.prepare()
        with self._named_folder():
            log = await asyncio.to_thread(RunLog, self.log_dir) if self.log_dir is not None else None
        try:
            await asyncio.to_thread(self._plan, found, log)
            chains = tuple(slot.trajectory.id for slot in self._slots)
            resumed = tuple(slot.trajectory.id for slot in self._slots if slot.resumed)
            await self.rollout.emit(RunStart(chains, resumed))
            store = self.agent.store if log is None else log.images
            self.agent.store.look_in(store)
            gate = asyncio.Semaphore(self.agent.settings.max_concurrent_chains)
            await gather_or_cancel(self._chain(slot, store, log, gate) for slot in self._slots if not slot.resumed)
        finally:
            for task in self._loaded.values():
                task.cancel()
            if log is not None:
                log.close()
        return self._keep()

    def _plan(self, found: Sequence[OneConversation], log: RunLog | None) -> None:
        """Make a slot for each chain, with its trajectory where the log has a finished one."""
        run, system = uuid4().hex[:8], self.agent.system_prompt
        prints = [fingerprint(talk, system(metadata_of(talk))) if log else "" for talk in found]
        groups = group_ids(found, [print_ or f"{run}-{index}" for index, print_ in enumerate(prints)])
        for index, (conversation, group, print_) in enumerate(zip(found, groups, prints, strict=True)):
            for number in range(self.num_chains):
                slot = _Slot(index, conversation, Trajectory(f"{group}-{number}", group, []))
                done = log.resume(slot.trajectory.id, print_) if log else None
                if done is not None:
                    slot.trajectory, slot.resumed = done, True
                self._slots.append(slot)

    async def _chain(self, slot: _Slot, store: ImageStore, log: RunLog | None, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                messages = await self._load(slot, store)
            except ImageError as fault:
                await self._unloadable(slot, fault)
            else:
                await self._roll(slot, messages, store)
            if log is not None and slot.trajectory.stop_reason is not StopReason.CANCELLED:
                # A tool may have put images into the agent's own store.
                with self._named_folder():
                    await asyncio.to_thread(log.images.copy_from, self.agent.store, slot.trajectory.handles)
                    await log.append(slot.trajectory)

    async def _roll(self, slot: _Slot, messages: Sequence[Message], store: ImageStore) -> None:
        trajectory = slot.trajectory
        number = int(trajectory.id.rpartition("-")[2])
        conversation = {**slot.conversation, "messages": messages}
        try:
            chain = self.agent.chain(conversation, trajectory.group_id, number, store=store)
        except (AgentFlyError, OSError):  # of the set-up or the system: no chain would do better
            raise
        except Exception as fault:  # of a hook of the agent, or a tool's constructor, for this conversation
            logger.exception("chain %s cannot be made", trajectory.id)
            await self._fail(slot, described(fault))
            return
        chain.session, count = chain.trajectory.id, 1
        while chain.session in _SESSIONS:
            count += 1
            chain.session = f"{chain.trajectory.id}.{count}"
        _SESSIONS.add(chain.session)
        slot.trajectory = chain.trajectory
        try:
            await self.rollout.run(chain)
        finally:
            _SESSIONS.discard(chain.session)

    async def _load(self, slot: _Slot, store: ImageStore) -> list[Message]:
        """Return the messages of a conversation, loaded by the first of its chains."""

        def keep(source: ImageSource) -> str:
            image = load_image(source, self.agent.settings.image_limits)
            with self._named_folder():
                return store.put(image)

        def load() -> list[Message]:
            return read_messages(slot.conversation, keep)

        if slot.group not in self._loaded:
            self._loaded[slot.group] = asyncio.ensure_future(asyncio.to_thread(load))
        # Shielded: the chains of a group wait for one task, and one that is cancelled must not take it along.
        return await asyncio.shield(self._loaded[slot.group])

    async def _unloadable(self, slot: _Slot, fault: ImageError) -> None:
        """Fail a chain whose image cannot be loaded; raise where it is the only conversation."""
        if slot.group == self._slots[-1].group == 0:
            raise fault
        await self._fail(slot, str(fault))

    async def _fail(self, slot: _Slot, error: str) -> None:
        """Fail a chain that cannot begin, with the words of its conversation."""
        trajectory = slot.trajectory
        await self.rollout.emit(ChainStart(trajectory.id))
        trajectory.stop_reason, trajectory.error = StopReason.ERROR, error
        messages = read_messages(slot.conversation, lambda _: "")
        trajectory.messages = [text_message(message.role, message.text) for message in messages]
        trajectory.metadata = metadata_of(slot.conversation)
        await self.rollout.emit(ErrorRaised(trajectory.id, error))
        await self.rollout.emit(ChainEnd(trajectory.id, StopReason.ERROR, 0.0))

    def _keep(self) -> RunResult:
        self.agent.result = RunResult(tuple(slot.trajectory for slot in self._slots), self.agent.store)
        return self.agent.result


def metadata_of(conversation: OneConversation) -> dict[str, object]:
    """Return everything of a conversation but its messages."""
    return {key: value for key, value in conversation.items() if key != "messages"}


def check_number(name: str, value: object) -> None:
    """Raise `ConfigError` unless `value` is an integer of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name}={value!r}: a whole number from 1 is needed")
