"""Detect a run that hangs, by a limit for each part of it, and a run that has lost a process that it needs.

A limit is for the time without progress. Progress is a new line in the log, a finished chain, or the next part of a
step, so that a slow machine is not taken for a hang.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentfly.training.launch.log_reader import SAMPLED, Phase, clean
from agentfly.training.launch.stack_dump import part_in_progress
from agentfly.training.recipe.settings import TrainSettings

_GONE_SECONDS = 20.0  # between the end of a needed process and the alarm
_EXIT_SECONDS = 60.0  # limit after the last step
_RECENT_LINES = 2000
_MOST_KINDS = 20_000  # of lines that are remembered
_NUMBER = re.compile(r"[\d.:]+")
# How Ray's log names a process, with its machine unless that is the trainer's own (ray/_private/worker.py:2382), and
# says that one has died (src/ray/raylet/node_manager.cc), or a whole machine (src/ray/gcs/gcs_node_manager.cc).
_SPEAKER = re.compile(r"\((\w+) pid=(\d+)(?:, ip=([^)\s]+))?\)")
_DEATH = re.compile(r"A worker died or was killed.*Worker PID: (\d+)")
_NODE_DEATH = re.compile(r"The node with node id: \w+ and address: (\S+) and node name: .* has been marked dead")
# The rollout server says so of its engine, which on another machine nobody sees (vllm/v1/engine/core_client.py:703).
_ENGINE_DEATH = "engine core exited unexpectedly"
_LOOKS = 10  # at the part in progress within the second half of a limit
# Names in the titles of processes without which verl would wait for ever.
_NEEDED = (
    "EngineCore",
    "AgentFlyLoopWorker",
    "CheckpointEngineWorker",
    "GlobalRequestLoadBalancer",
    "RewardLoopWorker",
    "SimpleStorageUnit",
    "TaskRunner",
    "TransferQueueController",
    "vLLMHttpServer",
    "WorkerDict",
)
_HINTS = {
    "ray": ": is /tmp full, or does RAY_ADDRESS name a cluster that does not answer?",
    "start": "; on a machine that is only slow, raise the limit and run the same command again",
}


@dataclass(frozen=True)
class Alarm:
    """Reason to end a run.

    Attributes:
        message: for the user.
        hung: nothing died, so an error in the log from before the last progress is not the cause.
    """

    message: str
    hung: bool


class Watchdogs:
    """Detector of hangs and dead processes of one launch. Poll `check_time` and `check_members`.

    Args:
        settings: with the patience for each part.
        steps: training steps of the whole run; after the last one verl ends its processes.
        stacks: folder that the trainer writes its stacks to.
    """

    def __init__(self, settings: TrainSettings, steps: int, stacks: Path) -> None:
        self._settings, self._steps, self._stacks = settings, steps, stacks
        self._began = self._progressed = self._news = self._looked = time.monotonic()
        self._kinds: set[str] = set()
        self._part: str | None = None
        self._chain_bytes = 0
        self._sampled = False  # True when the rollouts of the step in progress are done
        self._seen: dict[int, str] = {}
        self._spoke: dict[int, str] = {}
        self._machines: dict[str, set[str]] = {}  # needed processes on other machines, by address
        self._dead: dict[int | str, str] = {}  # what is gone, by process id or address
        self._missed: dict[int | str, float] = {}
        self.recent: deque[str] = deque(maxlen=_RECENT_LINES)  # of the log, since the last progress

    def note_line(self, line: str) -> None:
        """Note a line of the log."""
        self.recent.append(line)
        # A line that repeats with other numbers is a warning or a heartbeat, and no progress.
        kind = _NUMBER.sub("#", clean(line))
        if kind not in self._kinds and len(self._kinds) < _MOST_KINDS:
            self._kinds.add(kind)
            self._news = time.monotonic()
        if SAMPLED in line:
            self.note_progress()
            self._sampled = True
        if (speaker := _SPEAKER.search(line)) is not None and speaker[1].startswith(_NEEDED):
            self._spoke[int(speaker[2])] = speaker[1]
            if speaker[3] is not None:
                self._machines.setdefault(speaker[3], set()).add(speaker[1])
            if _ENGINE_DEATH in line:
                self._dead[int(speaker[2])] = f"the rollout engine of process {speaker[2]} ({speaker[1]}) is gone"
        # A process may live for less than the time between two looks, or on another machine.
        if (death := _DEATH.search(line)) is not None and (pid := int(death[1])) in self._spoke:
            self._dead[pid] = _gone(pid, self._spoke[pid])
        # A cluster may lose a machine that this run does not use.
        if (node := _NODE_DEATH.search(line)) is not None and (names := self._machines.get(node[1])) is not None:
            self._dead[node[1]] = f"machine {node[1]} of the Ray cluster is gone, with {', '.join(sorted(names))}"

    def note_progress(self) -> None:
        """Note that a phase has begun, or that a step is done."""
        self._sampled, self._part = False, None
        self._progressed = time.monotonic()
        self.recent.clear()

    def note_chains(self, size: int) -> None:
        """Note the size of the log of finished chains, in bytes: while it grows, the rollouts make progress."""
        if size != self._chain_bytes:
            self._chain_bytes = size
            self._progressed = time.monotonic()

    def check_time(self, begun: Mapping[Phase, float], step: int) -> Alarm | None:
        """Return an alarm if a part has made no progress for longer than its limit.

        Args:
            begun: the phases so far, with the time (monotonic) when each began.
            step: the last one that is done.
        """
        patience, now = self._settings.patience, time.monotonic()
        if "workers" not in begun:
            waited, limit, what = now - max(self._began, self._news), patience.ray, "ray"
        elif "training" not in begun:
            waited, limit, what = now - max(begun["workers"], self._news), patience.start, "start"
        elif self._sampled:
            waited, limit, what = now - self._progressed, patience.update, "update"
        else:
            waited, limit, what = now - self._progressed, self._settings.rollout_patience, "rollout"
        # verl logs the last step before it ends Ray and writes nothing more.
        if step >= self._steps:
            limit = min(limit, _EXIT_SECONDS)
        if waited > limit / 2 and now - self._looked > limit / 2 / _LOOKS:
            self._looked = now
            before, self._part = self._part, part_in_progress(self._stacks)
            if None is not before != self._part:
                self._progressed = now
                return None
        if waited <= limit:
            return None
        part = self._part
        where = f" in {part}" if part else _HINTS.get(what, "")
        return Alarm(f"nothing moved for {waited:.0f} s{where} (agentfly.patience.{what}={limit:.0f})", hung=True)

    def check_members(self, living: Mapping[int, str], step: int) -> Alarm | None:
        """Return an alarm if the rollout engine or a worker is gone: verl would wait for it.

        Args:
            living: titles of the processes of the run, by process id.
            step: the last one that is done.
        """
        if step >= self._steps:
            return None  # verl is ending them
        gone = self._dead | {pid: _gone(pid, title) for pid, title in self._seen.items() if pid not in living}
        self._seen |= {pid: title for pid, title in living.items() if any(name in title for name in _NEEDED)}
        now = time.monotonic()
        for key, what in gone.items():
            # verl may be ending the run because of it, with a better message.
            if now - self._missed.setdefault(key, now) > _GONE_SECONDS:
                # Processes that are gone with their machine are not the cause.
                machines = [text for name, text in gone.items() if isinstance(name, str)]
                return Alarm(next(iter(machines), what), hung=False)
        return None


def _gone(pid: int, title: str) -> str:
    return f"process {pid} ({title}) of the run is gone"
