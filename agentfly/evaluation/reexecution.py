"""Run the recorded tool calls of a trajectory again: the same calls on the same sources, with the present engines.

Every image that a call makes is compared, pixel by pixel, with the one that the trajectory names, so that a change of
an engine is found at the turn and the tool where it begins. Calls after a different image work on that image.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from agentfly.agents.tool_calls import Outcome, TurnCalls
from agentfly.agents.trajectory import ToolRecord, Trajectory
from agentfly.agents.trajectory_file import first_messages
from agentfly.errors import ImageError
from agentfly.images import ImageStore, ImageView
from agentfly.messages import ToolCall
from agentfly.tools import ImageTools, Toolset
from agentfly.vision import Engines

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Difference:
    """Something that is not as it was recorded.

    Attributes:
        turn, call: where, from 1.
        tool: name of the tool.
        image: name of the image in the chain; "" where a call as a whole differs.
        what: in words.
        mean, max: absolute difference of pixel values (0 to 255), None where it cannot be measured.
        share: of pixels that differ, 0 to 1.
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
    """What carrying out a trajectory's calls again gave.

    Attributes:
        id: of the recorded chain.
        calls: calls that were carried out.
        equal: images that are pixel by pixel as recorded.
        differences: in the order of the calls.
        skipped: why calls, or the whole chain, were not carried out.
    """

    id: str
    calls: int = 0
    equal: int = 0
    differences: list[Difference] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


async def reexecute(
    id_: str, trajectory: Trajectory, store: ImageStore, engines: Engines, *, timeout: float = 600.0
) -> Reexecution:
    """Carry out the calls of a trajectory again.

    Args:
        id_: of the recorded chain.
        trajectory: as recorded; it is not changed.
        store: has the source images and gets the new ones; recorded ones it lacks are told apart by their handles.
        engines: what works behind the tools.
        timeout: seconds for one call.
    """
    found = Reexecution(id_)
    view = ImageView(store)
    for handle in (handle for message in first_messages(trajectory) for handle in message.images):
        if handle not in store:
            found.skipped.append(f"the source image {handle} was not kept: name it with --images or --data")
            return found
        view.add_handle(handle)
    course = _Course(trajectory, view, Toolset.of(ImageTools(view, engines)), found, timeout)
    for number, turn in enumerate(trajectory.turns, 1):
        await course.turn(number, turn.tools)
    course.end()
    return found


@dataclass
class _Course:
    """One chain on its way; the listener of its calls."""

    trajectory: Trajectory
    view: ImageView
    tools: Toolset
    found: Reexecution
    timeout: float
    _turn: int = 0
    _running: Sequence[tuple[int, ToolRecord]] = ()
    _known: set[str] = field(default_factory=set)

    async def turn(self, number: int, records: Sequence[ToolRecord]) -> None:
        """Carry out the calls of one turn."""
        self._turn = number
        self._running = [(index, record) for index, record in enumerate(records) if self._can_run(index, record)]
        self._known = set(self.view)
        if not self._running:
            return
        try:
            calls = [_call(index, record) for index, record in self._running]
            await TurnCalls(self.tools, self.view, lambda: self.timeout, self).run(calls)
        except Exception as fault:  # the boundary of a chain: a bug in an engine must not end the others
            logger.exception("%s, turn %d failed", self.found.id, number)
            self._differs(*self._running[0], "", f"failed now: {type(fault).__name__}: {fault}")

    def end(self) -> None:
        """Tell of recorded images that nothing has made."""
        for name, handle in self.trajectory.names.items():
            if name not in self.view and handle not in self.view:
                self._turn, index, record = self._maker(handle)
                self._differs(index, record, name, "was made when it was recorded, and is not made now")

    async def started(self, index: int, call: ToolCall) -> None:
        """See `agentfly.agents.tool_calls.Listener`."""

    async def ended(self, index: int, call: ToolCall, seconds: float, error: str | None) -> None:
        """See `agentfly.agents.tool_calls.Listener`."""

    async def settled(self, outcome: Outcome) -> None:
        """Compare what a call gave."""
        self.found.calls += 1
        index, record = self._running[outcome.index]
        now, then = outcome.record.error, record.error
        if (now is None) != (then is None):
            self._differs(index, record, "", f"failed now: {now}" if now else f"had failed: {then}")
        made = [name for name in self.view if name not in self._known]
        self._known.update(made)
        for name in made:
            self._compare(index, record, name)

    def _can_run(self, index: int, record: ToolRecord) -> bool:
        if record.error is not None or record.name in self.tools:
            return True
        self.found.skipped.append(f"turn {self._turn}: {record.name} is no image tool")
        # What it made is taken as recorded, so that calls after it have their images.
        names = {handle: name for name, handle in self.trajectory.names.items()}
        for handle in self._told(self._turn, index):
            if handle in self.view.store and handle in names:
                self.view.add_handle(handle, names[handle].partition("_")[0])
        return False

    def _compare(self, index: int, record: ToolRecord, name: str) -> None:
        recorded, made = self.trajectory.names.get(name), self.view.handle(name)
        if recorded == made:
            self.found.equal += 1
            return
        if recorded is None:
            self._differs(index, record, name, "was not made when it was recorded")
            return
        try:
            measured = measure(self.view.store.get(recorded), self.view.store.get(made))
        except ImageError:
            measured = {"what": f"differs; the recorded image {recorded} was not kept, so it cannot be measured"}
        self._differs(index, record, name, **measured)

    def _maker(self, handle: str) -> tuple[int, int, ToolRecord]:
        """Turn, number and record of the call that a recorded image was told of; the last call where none was."""
        places = [(turn, i, r) for turn, told in enumerate(self.trajectory.turns, 1) for i, r in enumerate(told.tools)]
        found = (place for place in places if handle in self._told(place[0], place[1]))
        return next(found, places[-1] if places else (0, 0, ToolRecord("", {}, 0.0)))

    def _told(self, turn: int, index: int) -> tuple[str, ...]:
        """Images of the observation of a call, as recorded; none where the chain ended before it was told."""
        answers: list[list[tuple[str, ...]]] = []
        for message in self.trajectory.messages[len(first_messages(self.trajectory)) :]:
            if message.role == "assistant":
                answers.append([])
            elif message.role == "tool" and answers:
                answers[-1].append(message.images)
        told = answers[turn - 1] if turn <= len(answers) else []
        return told[index] if index < len(told) else ()

    def _differs(self, index: int, record: ToolRecord, image: str, what: str, **measured: Any) -> None:
        self.found.differences.append(Difference(self._turn, index + 1, record.name, image, what, **measured))


def measure(recorded: Image.Image, made: Image.Image) -> dict[str, Any]:
    """How two images differ: in words and, where they have one size, by mean, maximum and share of pixels."""
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


def _call(index: int, record: ToolRecord) -> ToolCall:
    error = (record.error or "malformed call") if record.malformed else None
    return ToolCall(f"call_{index}", record.name, dict(record.arguments), error)


def totals(found: Sequence[Reexecution]) -> Mapping[str, Any]:
    """Counts over chains."""
    return {
        "chains": len(found),
        "calls": sum(one.calls for one in found),
        "images_equal": sum(one.equal for one in found),
        "differences": sum(len(one.differences) for one in found),
        "chains_that_differ": sum(bool(one.differences) for one in found),
        "chains_with_skipped_calls": sum(bool(one.skipped) for one in found),
    }
