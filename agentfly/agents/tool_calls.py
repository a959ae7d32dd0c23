"""The tool calls of one turn. Independent calls run at the same time; all are reported in their order.

A call that names an image which does not exist yet (`img_2` while there is only `img_1`) waits for the calls before
it. So does a call of a final tool (`give_answer`); calls after it run only if it fails. Names of new images, records
and observations do not depend on which call is faster.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

from agentfly.agents.trajectory import ToolRecord
from agentfly.aio import gather_or_cancel
from agentfly.errors import ImageError, ToolError, ToolOutage
from agentfly.images import ImageView
from agentfly.images.tool_call import in_tool_call
from agentfly.images.view import Draft
from agentfly.messages import ToolCall
from agentfly.tools import ToolResult, Toolset
from agentfly.vision.tool_cache import watch_cache

_IMAGE_NAME = re.compile(r"(?:img|mask|view)_\d+")


@dataclass(frozen=True)
class Outcome:
    """A call that was carried out: its number in the turn, its result, its record, and the outage it met, if any."""

    index: int
    call: ToolCall
    result: ToolResult
    record: ToolRecord
    outage: ToolOutage | None = None


class Listener(Protocol):
    """Receive the calls as they happen."""

    async def started(self, index: int, call: ToolCall) -> None:
        """Receive a call that begins."""

    async def ended(self, index: int, call: ToolCall, seconds: float, error: str | None) -> None:
        """Receive a call that has ended; its images have no names yet."""

    async def settled(self, outcome: Outcome) -> None:
        """Receive the outcome of a call; all calls before it have ended."""


@dataclass(frozen=True)
class TurnCalls:
    """Carry out the calls of a turn.

    Attributes:
        tools, view: of the chain.
        timeout: returns the seconds that a call beginning now may take.
        listener: receives what happens.
    """

    tools: Toolset
    view: ImageView
    timeout: Callable[[], float]
    listener: Listener

    async def run(self, calls: Sequence[ToolCall]) -> list[Outcome]:
        """Return outcomes in the order of the calls; the last one is final when a call ended the chain.

        Raises:
            Exception: a bug in a tool; calls beside it are cancelled.
        """
        done: list[Outcome] = []
        for part in self._parts(list(enumerate(calls))):
            done += await self._side_by_side(part)
            final = next((i for i, outcome in enumerate(done) if outcome.result.final), None)
            if final is not None:
                return done[: final + 1]
        return done

    def _parts(self, calls: list[tuple[int, ToolCall]]) -> Iterator[list[tuple[int, ToolCall]]]:
        """Yield the calls between final ones, and each final one alone."""
        part: list[tuple[int, ToolCall]] = []
        for index, call in calls:
            tool = self.tools.get(call.name)
            if tool is not None and tool.final:
                if part:
                    yield part
                yield [(index, call)]
                part = []
            else:
                part.append((index, call))
        if part:
            yield part

    async def _side_by_side(self, calls: list[tuple[int, ToolCall]]) -> list[Outcome]:
        if len(calls) == 1:
            return [await self._call(*calls[0])]
        over = [asyncio.Event() for _ in calls]
        work = []
        for place, (index, call) in enumerate(calls):
            earlier = over[place - 1] if place else None
            waits = _names_a_new_image(call.arguments, self.view)
            # Only what may run beside earlier calls needs names that are settled later.
            draft = self.view.draft() if earlier is not None and not waits else None
            work.append(self._in_order(index, call, earlier, over[place], draft))
        return await gather_or_cancel(work)

    async def _in_order(
        self, index: int, call: ToolCall, earlier: asyncio.Event | None, over: asyncio.Event, draft: Draft | None
    ) -> Outcome:
        """Run a call, and settle it after the one before it. After a bug `over` stays unset: others are cancelled."""
        if earlier is not None and draft is None:
            await earlier.wait()
        outcome = await self._call(index, call, draft, earlier)
        over.set()
        return outcome

    async def _call(
        self, index: int, call: ToolCall, draft: Draft | None = None, earlier: asyncio.Event | None = None
    ) -> Outcome:
        await self.listener.started(index, call)
        tool = self.tools.get(call.name)
        looks, known = tool is not None and tool.looks, frozenset(self.view)
        begun, began, error, outage = time.monotonic(), time.time(), None, None
        try:
            with in_tool_call(self.view), watch_cache() as cache, draft or nullcontext():
                result = await self.tools.execute(call, timeout=self.timeout())
        except (ToolError, ImageError) as fault:
            result, error = ToolResult(f"Error: {fault}"), str(fault)
            outage = fault if isinstance(fault, ToolOutage) else None
        seconds = time.monotonic() - begun
        await self.listener.ended(index, call, seconds, error)
        if earlier is not None:
            await earlier.wait()
        names = draft.settle() if draft is not None else {}
        if names:
            result = replace(result, text=_renamed(result.text, names), data=_renamed(result.data, names))
            error = _renamed(error, names)
        for handle in result.images:
            # A name that the tool itself gave just now stays.
            if handle not in self.view or self.view.name(handle) in known:
                self.view.add_handle(handle, "view" if looks else "img")
        record = ToolRecord(
            call.name,
            dict(call.arguments),
            seconds,
            result.engine,
            error,
            call.error is not None,
            dict(result.data),
            result.images,
            began,
            looks,
            cache.used,
        )
        outcome = Outcome(index, call, result, record, outage)
        await self.listener.settled(outcome)
        return outcome


def _names_a_new_image(value: object, view: ImageView) -> bool:
    if isinstance(value, str):
        return _IMAGE_NAME.fullmatch(value) is not None and value not in view
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, Sequence) and any(_names_a_new_image(item, view) for item in value)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The value with names in place of provisional ones."""
    if isinstance(value, str):
        for provisional, name in names.items():
            value = value.replace(provisional, name)
        return value
    if isinstance(value, Mapping):
        return {_renamed(key, names): _renamed(item, names) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_renamed(item, names) for item in value]
    return value
