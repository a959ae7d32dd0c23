"""Run the recorded tool calls of a trajectory again: the same calls on the same sources, with the present engines.

Each image that a call makes is compared, pixel by pixel, with the recorded one. A change of an engine is thus found at
the turn and the tool where it begins. Calls that follow a different image work on that image.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import NotRequired, TypedDict, Unpack

import numpy as np
from PIL import Image

from agentfly.agents import Agent
from agentfly.agents.tool_calls import Outcome, TurnCalls
from agentfly.agents.trajectory import ToolRecord, Trajectory
from agentfly.agents.trajectory_file import first_messages
from agentfly.errors import ImageError
from agentfly.images import ImageStore, ImageView
from agentfly.messages import ToolCall
from agentfly.tools import Toolset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Difference:
    """A result that differs from the recorded one.

    Attributes:
        turn, call: number of the turn and of the call in it, from 1.
        tool: name of the tool.
        image: name of the image in the chain; "" where the call as a whole differs.
        what: the difference in words.
        mean, max: absolute difference of pixel values (0 to 255), None where it cannot be measured.
        share: of the pixels that differ, 0 to 1.
    """

    turn: int
    call: int
    tool: str
    image: str
    what: str
    mean: float | None = None
    max: int | None = None
    share: float | None = None


@dataclass
class Reexecution:
    """The results of running the calls of a trajectory again.

    Attributes:
        id: of the recorded chain.
        calls: calls that were run.
        equal: images that equal the recorded ones pixel by pixel.
        differences: in the order of the calls.
        skipped: reasons for which calls, or the whole chain, were not run.
    """

    id: str
    calls: int = 0
    equal: int = 0
    differences: list[Difference] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON."""
        return asdict(self)


class Totals(TypedDict):
    """Counts over chains."""

    chains: int
    calls: int
    images_equal: int
    differences: int
    chains_that_differ: int
    chains_with_skipped_calls: int


class Measured(TypedDict):
    """The difference of two images: in words and, where they have one size, in figures as in `Difference`."""

    what: str
    mean: NotRequired[float]
    max: NotRequired[int]
    share: NotRequired[float]


async def reexecute(
    id_: str, trajectory: Trajectory, store: ImageStore, agent: Agent, *, timeout: float = 600.0
) -> Reexecution:
    """Run the calls of a trajectory again.

    Args:
        id_: of the recorded chain.
        trajectory: as recorded; it is not changed.
        store: holds the source images, and takes the new ones. Recorded images that it lacks are compared by handle.
        agent: has the tools.
        timeout: seconds for one call.
    """
    found = Reexecution(id_)
    view = ImageView(store)
    for handle in (handle for message in first_messages(trajectory) for handle in message.images):
        if handle not in store:
            found.skipped.append(f"the source image {handle} was not kept: name it with --images or --data")
            return found
        try:
            await asyncio.to_thread(store.get, handle)
        except ImageError as fault:
            found.skipped.append(f"a source image is lost: {fault}")
            return found
        view.add_handle(handle)
    await agent.prepare()
    chain = _Chain(trajectory, view, agent.tools_for(view), found, timeout)
    for number, turn in enumerate(trajectory.turns, 1):
        await chain.run_turn(number, turn.tools)
    chain.report_missing_images()
    return found


@dataclass
class _Chain:
    """One chain that is run again; it listens to its calls."""

    trajectory: Trajectory
    view: ImageView
    tools: Toolset
    found: Reexecution
    timeout: float
    _turn: int = 0
    _running: Sequence[tuple[int, ToolRecord]] = ()
    _known: set[str] = field(default_factory=set)

    async def run_turn(self, number: int, records: Sequence[ToolRecord]) -> None:
        """Run the calls of one turn."""
        self._turn = number
        self._running = [(index, record) for index, record in enumerate(records) if self._can_run(index, record)]
        self._known = set(self.view)
        if not self._running:
            return
        calls = []
        for index, record in self._running:
            error = (record.error or "malformed call") if record.malformed else None
            calls.append(ToolCall(f"call_{index}", record.name, dict(record.arguments), error))
        try:
            await TurnCalls(self.tools, self.view, lambda: self.timeout, self).run(calls)
        except Exception as fault:  # the boundary of a chain: a bug in an engine must not end the others
            logger.exception("%s, turn %d failed", self.found.id, number)
            self._add(*self._running[0], "", what=f"failed now: {type(fault).__name__}: {fault}")

    def report_missing_images(self) -> None:
        """Add a difference for each recorded image that no call has made, at the call whose observation showed it."""
        places = [(turn, i, r) for turn, made in enumerate(self.trajectory.turns, 1) for i, r in enumerate(made.tools)]
        for name, handle in self.trajectory.names.items():
            if name not in self.view and handle not in self.view:
                found = (place for place in places if handle in self._observed(place[0], place[1]))
                # An image of the last turn is in no observation.
                self._turn, index, record = next(found, places[-1] if places else (0, 0, ToolRecord("", {}, 0.0)))
                self._add(index, record, name, what="was made when it was recorded, and is not made now")

    async def started(self, index: int, call: ToolCall) -> None:
        """See `agentfly.agents.tool_calls.Listener`."""

    async def ended(self, index: int, call: ToolCall, seconds: float, error: str | None) -> None:
        """See `agentfly.agents.tool_calls.Listener`."""

    async def settled(self, outcome: Outcome) -> None:
        """Compare the results of a call with the recorded ones."""
        self.found.calls += 1
        index, record = self._running[outcome.index]
        now, then = outcome.record.error, record.error
        if (now is None) != (then is None):
            self._add(index, record, "", what=f"failed now: {now}" if now else f"had failed: {then}")
        made = [name for name in self.view if name not in self._known]
        self._known.update(made)
        for name in made:
            recorded, handle = self.trajectory.names.get(name), self.view.handle(name)
            if recorded == handle:
                self.found.equal += 1
            elif recorded is None:
                self._add(index, record, name, what="was not made when it was recorded")
            else:
                try:
                    measured = measure(self.view.store.get(recorded), self.view.store.get(handle))
                except ImageError as fault:
                    lost = str(fault) if recorded in self.view.store else f"the recorded image {recorded} was not kept"
                    measured = {"what": f"differs; {lost}, so it cannot be measured"}
                self._add(index, record, name, **measured)

    def _can_run(self, index: int, record: ToolRecord) -> bool:
        if record.error is not None or record.name in self.tools:
            return True
        self.found.skipped.append(
            f"turn {self._turn}: there is no tool {record.name}: name the agent or the tool with --agent or --tools"
        )
        # Its recorded images are taken as they are: later calls need them.
        # A view that an edit made again has two names, of which the edit gave the later one.
        given = list(self.trajectory.names.items())
        names = {handle: name for name, handle in (reversed(given) if record.looks else given)}
        for handle in self._observed(self._turn, index):
            if handle in self.view.store and handle in names:
                self.view.add_handle(handle, names[handle].partition("_")[0])
        return False

    def _observed(self, turn: int, index: int) -> tuple[str, ...]:
        """Return the images in the recorded observation of a call, none where the chain ended before it."""
        answers: list[list[tuple[str, ...]]] = []
        for message in self.trajectory.messages[len(first_messages(self.trajectory)) :]:
            if message.role == "assistant":
                answers.append([])
            elif message.role == "tool" and answers:
                answers[-1].append(message.images)
        observed = answers[turn - 1] if turn <= len(answers) else []
        return observed[index] if index < len(observed) else ()

    def _add(self, index: int, record: ToolRecord, image: str, **measured: Unpack[Measured]) -> None:
        self.found.differences.append(Difference(self._turn, index + 1, record.name, image, **measured))


def measure(recorded: Image.Image, made: Image.Image) -> Measured:
    """Return the difference of two images of any mode and size."""
    if recorded.size != made.size:
        return {"what": f"was {recorded.width}x{recorded.height}, is {made.width}x{made.height}"}
    mode = recorded.mode if recorded.mode == made.mode else "RGBA"
    before, after = (np.asarray(image.convert(mode), np.int16) for image in (recorded, made))
    gap = np.abs(before - after)
    pixels = gap if gap.ndim == 2 else gap.max(axis=-1)
    words = "pixels differ" if recorded.mode == made.mode else f"was {recorded.mode}, is {made.mode}"
    return {
        "what": words,
        "mean": round(float(gap.mean()), 4),
        "max": int(gap.max()),
        "share": round(float((pixels > 0).mean()), 6),
    }


def totals(found: Sequence[Reexecution]) -> Totals:
    """Return the counts over chains."""
    return {
        "chains": len(found),
        "calls": sum(one.calls for one in found),
        "images_equal": sum(one.equal for one in found),
        "differences": sum(len(one.differences) for one in found),
        "chains_that_differ": sum(bool(one.differences) for one in found),
        "chains_with_skipped_calls": sum(bool(one.skipped) for one in found),
    }
