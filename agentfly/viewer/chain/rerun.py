"""Run recorded calls again, and say if they give the same images.

A run folder names no code here: tools are those of this package, or those that a person named when the viewer was
started. Engines of a run are used again only if they are the embedded ones. Any other would load models, or send a key
to an address, because a file said so: a person names them with `--engine`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from agentfly.agents import Agent
from agentfly.agents.factory import make_agent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.spec import AgentSpec
from agentfly.agents.tool_calls import Outcome, TurnCalls
from agentfly.agents.trajectory import ToolRecord, Trajectory, plain
from agentfly.agents.trajectory_file import first_messages
from agentfly.agents.user_tools import OWN
from agentfly.aio import TimeLimitExceeded, with_timeout
from agentfly.errors import AgentFlyError, ConfigError, ImageError, shortened
from agentfly.evaluation.reexecution import Measured, measure, reexecute
from agentfly.images import ImageStore, ImageView
from agentfly.images.encoding import data_uri
from agentfly.messages import ToolCall
from agentfly.redaction import public_settings
from agentfly.tools.groups import GROUPS
from agentfly.viewer.chain.setup import RunSetup
from agentfly.viewer.runs.facts import bounded
from agentfly.viewer.settings import ViewerSettings

if TYPE_CHECKING:
    from agentfly.vision import Engines

logger = logging.getLogger(__name__)

EMBEDDED = "classical"
_LOCAL = (EMBEDDED, "retouch")  # what the tools of this package name as their engine when no model works for them
_MOST_PIXELS = 4_000_000  # of an image that is sent with the result
_MOST_SECONDS = 600.0
_MOST_SHOWN = 100  # settings of engines in a message


@dataclass(frozen=True)
class MadeImage:
    """An image that a call made now.

    Attributes:
        equal: pixel by pixel.
        what: the difference in words.
        mean, max, share: see `agentfly.evaluation.reexecution.Difference`.
        image: data URI of the image now; "" where it is equal or too large.
    """

    equal: bool
    what: str
    mean: float | None = None
    max: int | None = None
    share: float | None = None
    image: str = ""


@dataclass(frozen=True)
class CallRerun:
    """The result of one call.

    Attributes:
        equal: everything is as it was recorded.
        words: a sentence.
        seconds: of the call now.
        engine: that did the work now.
        images: that were made, in the order of the recorded ones.
    """

    equal: bool
    words: str
    seconds: float
    engine: str
    images: tuple[MadeImage, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON."""
        return asdict(self)


class Busy(AgentFlyError):
    """Another request is being run."""


class Rerunner:
    """Run recorded calls again, one request at a time.

    Args:
        settings: of the viewer: engines, agent and tools that a person named, and the time limit.
    """

    def __init__(self, settings: ViewerSettings) -> None:
        self._settings = settings
        self._agents: dict[str, Agent] = {}
        self._busy = False

    async def call(
        self, trajectory: Trajectory, turn: int, number: int, images: ImageStore, setup: RunSetup
    ) -> CallRerun:
        """Run one call again.

        Args:
            trajectory: of the chain.
            turn, number: place of the call, from 1.
            images: of the run; nothing is added to them.
            setup: of the run.

        Raises:
            ConfigError: there is no such call, its tool or its engines are not at hand, or an image was not kept.
            TimeLimitExceeded: it takes too long; what it does in a thread may go on.
            Busy: another request is being run.
        """
        record = _record(trajectory, turn, number)
        return await self._alone(_run_call, (trajectory, turn, number), [record], images, setup)

    async def chain(self, trajectory: Trajectory, images: ImageStore, setup: RunSetup) -> dict[str, object]:
        """Run all calls of a chain again, each on the images of the calls before it; see `call`."""
        records = trajectory.tool_records
        if not records:
            raise ConfigError("this chain has no calls")
        return await self._alone(_run_chain, (trajectory,), records, images, setup)

    async def close(self) -> None:
        """Free the agents."""
        for agent in self._agents.values():
            await agent.close()
        self._agents.clear()

    async def _alone(
        self, work: Any, what: tuple[Any, ...], records: Sequence[ToolRecord], images: ImageStore, setup: RunSetup
    ) -> Any:
        if self._busy:
            raise Busy("other calls are being run again: wait for them")
        self._busy = True
        try:
            spec = choose_engines(self._settings.engine, setup, records)
            name = json.dumps(spec, sort_keys=True, default=str)
            if name not in self._agents:
                self._agents[name] = await asyncio.to_thread(self._make, spec)
            store, seconds = ImageStore(), self._settings.rerun_seconds
            store.look_in(images)
            limit = min(_MOST_SECONDS, seconds * len(records))
            return await with_timeout(work(*what, store, self._agents[name], seconds), limit)
        finally:
            self._busy = False

    def _make(self, spec: str | Mapping[str, object]) -> Agent:
        from agentfly.vision import make_engines

        engines: Engines = make_engines(spec)
        given = self._settings
        tools = given.tools if given.tools is not None or given.agent is not None else (OWN, *GROUPS)
        named = AgentSpec(agent=given.agent, tools=tools)
        return make_agent(named, "rerun", engines=engines, backend=ScriptedBackend([]))


def choose_engines(
    given: str | Mapping[str, object] | None, setup: RunSetup, records: Sequence[ToolRecord]
) -> str | Mapping[str, object]:
    """Return the engines with which calls are run again, never with a cache in front.

    Args:
        given: named by a person; they are used as they are.
        setup: of the run.
        records: the calls.

    Raises:
        ConfigError: the run used engines that only a person may choose.
    """
    if given is not None:
        return {name: one for name, one in given.items() if name != "cache"} if isinstance(given, Mapping) else given
    if setup.nodes:
        raise ConfigError("this run's tools worked on image servers: name engines for this machine with --engine")
    written = _without_cache(setup.engines)
    if written is not None and not _embedded(written):
        shown = (
            written
            if isinstance(written, str)
            else json.dumps(public_settings(bounded(written, [_MOST_SHOWN])), default=str)
        )
        raise ConfigError(
            f"this run's engines are {shortened(shown, 300)}: start the viewer with --engine to have them work here"
        )
    for record in records if written is None else ():
        if record.engine and any(name not in _LOCAL for name in str(record.engine).split(" + ")):
            raise ConfigError(
                f"this call was made by the engine {shortened(str(record.engine))!r}: start the viewer with --engine "
                "to have it work here"
            )
    return EMBEDDED


def _without_cache(spec: str | Mapping[str, Any] | None) -> str | Mapping[str, Any] | None:
    if not isinstance(spec, Mapping):
        return spec
    return {name: value for name, value in spec.items() if name != "cache"}


def _embedded(spec: str | Mapping[str, Any]) -> bool:
    if isinstance(spec, str):
        return spec == EMBEDDED
    return all(value in (EMBEDDED, {"engine": EMBEDDED}) for value in spec.values())


def _record(trajectory: Trajectory, turn: int, number: int) -> ToolRecord:
    if not 1 <= turn <= len(trajectory.turns) or not 1 <= number <= len(trajectory.turns[turn - 1].tools):
        raise ConfigError("there is no such call in this chain")
    record = trajectory.turns[turn - 1].tools[number - 1]
    if record.malformed:
        raise ConfigError("this call could not be read, so there is nothing to run")
    return record


async def _run_chain(trajectory: Trajectory, store: ImageStore, agent: Agent, seconds: float) -> dict[str, object]:
    found = await reexecute(trajectory.id, trajectory, store, agent, timeout=seconds)
    if found.calls == 0 and found.skipped:
        raise ConfigError(found.skipped[0])
    words = (
        f"Calls run again: {found.calls}. Images that are equal: {found.equal}, differences: {len(found.differences)}."
    )
    return {**found.to_dict(), "words": words, "same": not found.differences and not found.skipped}


async def _run_call(
    trajectory: Trajectory, turn: int, number: int, store: ImageStore, agent: Agent, seconds: float
) -> CallRerun:
    record, view = _record(trajectory, turn, number), ImageView(store)
    for name, handle in names_before(trajectory, turn, number):
        view.add_handle(handle, name.partition("_")[0])
    lost = [v for v in record.arguments.values() if isinstance(v, str) and v in view and view.handle(v) not in store]
    if lost:
        raise ConfigError(f"the image {shortened(lost[0])} was not kept, so the call cannot be run again")
    await agent.prepare()
    tools = agent.tools_for(view)
    if record.name not in tools:
        raise ConfigError(
            f"there is no tool {shortened(record.name)!r} here: start the viewer with --agent or --tools that has it"
        )
    call = ToolCall("call_0", record.name, dict(record.arguments))
    try:
        outcomes = await TurnCalls(tools, view, lambda: seconds, _Deaf()).run([call])
    except Exception as fault:  # the boundary of a tool: a bug in it is the result
        logger.exception("a call that was run again failed")
        return CallRerun(False, f"It fails now: {type(fault).__name__}: {shortened(str(fault), 300)}", 0.0, "")
    return await asyncio.to_thread(_compare, record, outcomes[0].record, store)


def names_before(trajectory: Trajectory, turn: int, number: int) -> list[tuple[str, str]]:
    """Return the names and handles of the images that a call could name, in the order of their coming.

    Args:
        trajectory: of the chain.
        turn, number: place of the call, from 1.
    """
    records = [(t, c, r) for t, one in enumerate(trajectory.turns, 1) for c, r in enumerate(one.tools, 1)]
    before = {handle for message in first_messages(trajectory) for handle in message.images}
    before.update(handle for t, c, r in records if (t, c) < (turn, number) for handle in r.images)
    later = {handle for t, c, r in records if (t, c) >= (turn, number) for handle in r.images} - before
    return [(name, handle) for name, handle in trajectory.names.items() if handle not in later]


def _compare(then: ToolRecord, now: ToolRecord, store: ImageStore) -> CallRerun:
    engine, seconds = str(now.engine), round(now.seconds, 3)
    if now.error is not None or then.error is not None:
        same = now.error == then.error
        words = "It is refused again, in the same words." if same else f"It is refused now: {now.error}"
        if now.error is None:
            words = f"It works now; it had failed: {shortened(str(then.error), 300)}"
        return CallRerun(same, shortened(words, 600), seconds, engine)
    was, made = _handles(then), _handles(now)
    if not was and not made:
        same = _text(then.data) == _text(now.data)
        words = "It made no image, as then." if same else "It made no image, but its data differ."
        return CallRerun(same, words, seconds, engine)
    images = tuple(_made_image(old, new, store) for old, new in zip_longest(was, made))
    different = sum(not image.equal for image in images)
    if not different:
        words = "Equal: the same image, pixel by pixel." if len(images) == 1 else f"Equal: all {len(images)} images."
    else:
        words = f"{different} of {len(images)} images differ."
    return CallRerun(not different, words, seconds, engine, images)


def _made_image(old: str | None, new: str | None, store: ImageStore) -> MadeImage:
    if new is None:
        return MadeImage(False, "was made then, and is not made now")
    if old == new:
        return MadeImage(True, "equal")
    image = store.get(new)
    shown = data_uri(image) if image.width * image.height <= _MOST_PIXELS else ""
    if old is None:
        return MadeImage(False, "was not made then", image=shown)
    try:
        found: Measured = measure(store.get(old), image)
    except ImageError:
        return MadeImage(False, "differs; the recorded image was not kept, so it cannot be measured", image=shown)
    return MadeImage(False, image=shown, **found)


def _handles(record: ToolRecord) -> list[str]:
    """Return the images of a result, its mask among them."""
    mask = record.data.get("mask")
    return list(dict.fromkeys([*record.images, *([mask] if isinstance(mask, str) else [])]))


def _text(data: object) -> str:
    return json.dumps(data, sort_keys=True, default=plain)


class _Deaf:
    """A listener that hears nothing; see `agentfly.agents.tool_calls.Listener`."""

    async def started(self, index: int, call: ToolCall) -> None:
        """Do nothing."""

    async def ended(self, index: int, call: ToolCall, seconds: float, error: str | None) -> None:
        """Do nothing."""

    async def settled(self, outcome: Outcome) -> None:
        """Do nothing."""


__all__ = ["Busy", "CallRerun", "MadeImage", "Rerunner", "TimeLimitExceeded", "choose_engines", "names_before"]
