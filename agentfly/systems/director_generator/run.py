"""One run: directors brief, generators write, images are made, directors judge, generators refine.

What fails is recorded, and the run goes on with what it has; it ends where a phase yields nothing at all. A round
without an image is the exception: the generators are told why and may find other words, once. Limits are checked in
this order: the recursion limit before every phase, the threshold after every critique, then the rounds.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol, TypeVar

from PIL import Image

from agentfly.errors import AgentFlyError, ToolError
from agentfly.images import ImageStore
from agentfly.systems.director_generator.chat import Chat, Reader
from agentfly.systems.director_generator.painters import Easel, ImagePrompt
from agentfly.systems.director_generator.prompts import PhasePrompt
from agentfly.systems.director_generator.records import (
    CallRecord,
    ImageRecord,
    Phase,
    PhaseRecord,
    Role,
    RunRecord,
    Status,
    best_of,
)
from agentfly.systems.director_generator.replies import read_brief, read_critique, read_prompt
from agentfly.systems.director_generator.settings import Persona, Studio

T = TypeVar("T")


class RecursionLimit(AgentFlyError):
    """A run would begin more phases than it may."""


@dataclass(frozen=True)
class Request:
    """What is asked for: words, and images that belong to them; a painter that edits is given the first one."""

    prompt: str
    images: tuple[Image.Image, ...] = ()


class Watcher(Protocol):
    """Is told what happens, while it happens."""

    def phase_begins(self, phase: PhaseRecord) -> None:
        """A phase begins."""
        ...

    def called(self, phase: PhaseRecord, call: CallRecord) -> None:
        """An agent has answered, or has failed to."""
        ...

    def painted(self, phase: PhaseRecord, record: ImageRecord, image: Image.Image | None) -> None:
        """An image is there, or could not be made; `image.file` may be set."""
        ...

    def phase_ended(self, run: RunRecord) -> None:
        """A phase is over; the record is up to date."""
        ...


class Run:
    """The state of one run.

    Args:
        studio, chat, easel: who does what, shared with other runs.
        request: what is asked for.
        record: is filled.
        store: keeps the images.
        watcher: is told what happens.
    """

    def __init__(
        self,
        studio: Studio,
        chat: Chat,
        easel: Easel,
        request: Request,
        record: RunRecord,
        store: ImageStore,
        watcher: Watcher,
    ) -> None:
        self._studio, self._chat, self._easel = studio, chat, easel
        self._record, self._store, self._watcher = record, store, watcher
        self._request = request
        self._given = tuple(store.put(image) for image in request.images)
        self._briefs: dict[str, str] = {}
        seed = studio.settings.sdxl.seed
        self._seed = secrets.randbelow(2**32) if seed is None else seed

    async def go(self) -> Status:
        """Run to the end.

        Raises:
            RecursionLimit: more phases than allowed.
            AgentFlyError: a phase yielded nothing, or the settings are wrong.
        """
        settings = self._studio.settings
        await self._brief()
        prompts, barren = await self._write(), False
        for loop in range(1, settings.max_loops + 1):
            barren = not await self._paint(loop, prompts, again=barren)
            if not barren:
                await self._judge(loop)
            best = self._record.best
            if best is not None and not best.stand_in and (best.score or 0.0) >= settings.evaluation_threshold:
                return "threshold"
            if loop < settings.max_loops:
                prompts = await self._refine(loop + 1)
        return "max_loops"

    async def _brief(self) -> None:
        with self._phase("brief", 0) as phase:
            prompt = self._studio.prompts.brief
            asked = [
                self._ask(phase, "director", who, prompt, read_brief, self._given) for who in self._studio.directors
            ]
            calls = await _all(asked)
            self._briefs = {call.agent: call.data["brief"] for call in _good(calls, "no director wrote a brief")}

    async def _write(self) -> dict[str, ImagePrompt]:
        with self._phase("write", 1) as phase:
            prompt = self._studio.prompts.write
            asked = [
                self._ask(phase, "generator", who, prompt, read_prompt, self._given, briefs=self._told_briefs())
                for who in self._studio.generators
            ]
            return _prompts(await _all(asked))

    async def _paint(self, loop: int, prompts: dict[str, ImagePrompt], *, again: bool) -> bool:
        """Whether there is an image; `again` where there was none in the round before."""
        with self._phase("paint", loop) as phase:
            first = self._seed + len(self._record.images)
            phase.images += [
                ImageRecord(loop, name, wanted.prompt, wanted.negative, (first + index) % 2**32)
                for index, (name, wanted) in enumerate(prompts.items())
            ]
            await _all(self._make(phase, image) for image in phase.images)
            made = any(image.handle for image in phase.images)
            if not made and (again or loop == self._studio.settings.max_loops):
                raise AgentFlyError(f"no image could be made: {phase.images[0].fault}")
            return made

    async def _make(self, phase: PhaseRecord, record: ImageRecord) -> None:
        source = self._request.images[0] if self._request.images else None
        started = time.perf_counter()
        image = None
        try:
            wanted = ImagePrompt(record.prompt, record.negative_prompt)
            painted = await self._easel.paint(wanted, record.seed, source)
            image, record.engine, record.fault = painted.image, painted.engine, painted.fault
            record.stand_in = painted.fault is not None
            record.handle = await asyncio.to_thread(self._store.put, image)
        except ToolError as fault:
            record.engine, record.fault = self._easel.painter.name, str(fault)
        record.seconds = time.perf_counter() - started
        self._watcher.painted(phase, record, image)

    async def _judge(self, loop: int) -> None:
        images = [image for image in self._record.images if image.loop == loop and image.handle]
        with self._phase("critique", loop) as phase:
            calls = await _all(self._critique(phase, p, who) for p in images for who in self._studio.directors)
            _good(calls, "no director scored any image")

    async def _critique(self, phase: PhaseRecord, image: ImageRecord, who: Persona) -> CallRecord:
        call = await self._ask(
            phase,
            "director",
            who,
            self._studio.prompts.critique,
            read_critique,
            (*self._given, str(image.handle)),
            brief=self._briefs.get(who.name, "(you wrote none)"),
            prompt=image.prompt,
            generator=image.generator,
        )
        if call.error is None:
            image.critiques[who.name] = dict(call.data)
            image.score = fmean(critique["score"] for critique in image.critiques.values())
        return call

    async def _refine(self, loop: int) -> dict[str, ImagePrompt]:
        with self._phase("refine", loop) as phase:
            # A generator that gave no prompt for the last round goes on from its last image of an earlier one.
            last = {image.generator: image for image in self._record.images}
            asked = [self._revise(phase, who, last.get(who.name)) for who in self._studio.generators]
            return _prompts(await _all(asked))

    async def _revise(self, phase: PhaseRecord, who: Persona, image: ImageRecord | None) -> CallRecord:
        prompts, briefs = self._studio.prompts, self._told_briefs()
        if image is None:
            return await self._ask(phase, "generator", who, prompts.write, read_prompt, self._given, briefs=briefs)
        shown = () if image.handle is None else (image.handle,)
        return await self._ask(
            phase,
            "generator",
            who,
            prompts.refine,
            read_prompt,
            (*self._given, *shown),
            briefs=briefs,
            prompt=_told_prompt(image),
            score="none" if image.score is None else f"{image.score:.0f}",
            critiques=_told_critiques(image),
            best=self._told_best(image),
        )

    async def _ask(
        self,
        phase: PhaseRecord,
        role: Role,
        who: Persona,
        template: PhasePrompt,
        read: Reader,
        images: Sequence[str],
        **values: str,
    ) -> CallRecord:
        medium = self._easel.painter.medium
        words = template.fill(name=who.name, persona=who.persona, request=self._request.prompt, medium=medium, **values)
        call = await self._chat.ask(role, who, words, read, images, self._store)
        phase.calls.append(call)
        self._watcher.called(phase, call)
        return call

    @contextmanager
    def _phase(self, name: Phase, loop: int) -> Iterator[PhaseRecord]:
        limit = self._studio.settings.recursion_limit
        if self._record.steps >= limit:
            raise RecursionLimit(
                f"recursion_limit of {limit} phases reached before phase {name!r} of round {loop}: raise "
                "recursion_limit, or lower evaluation_threshold or max_loops"
            )
        self._record.steps += 1
        phase, started = PhaseRecord(name, loop), time.perf_counter()
        self._record.phases.append(phase)
        self._watcher.phase_begins(phase)
        try:
            yield phase
        finally:
            phase.seconds = time.perf_counter() - started
            self._watcher.phase_ended(self._record)

    def _told_briefs(self) -> str:
        return "\n\n".join(f"{name}:\n{brief}" for name, brief in self._briefs.items())

    def _told_best(self, own: ImageRecord) -> str:
        best = best_of([image for image in self._record.images if image.generator != own.generator])
        if best is None or (own.score or 0.0) >= (best.score or 0.0):
            return "Nobody else has a better one."
        return f"{best.generator} has {best.score:.0f} points with this prompt:\n{_told_prompt(best)}"


async def _all(work: Iterable[Awaitable[T]]) -> list[T]:
    """Results in order. What fails does not leave the others running behind a run that is over."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def _told_prompt(image: ImageRecord) -> str:
    negative = f"\nNegative prompt: {image.negative_prompt}" if image.negative_prompt else ""
    return f"{image.prompt}{negative}"


def _told_critiques(image: ImageRecord) -> str:
    if image.handle is None:
        return f"The image could not be made: {image.fault}"
    told = [f"{name} ({said['score']:.0f} points): {said['feedback']}" for name, said in image.critiques.items()]
    return "\n".join(told) or "Nobody could judge it."


def _prompts(calls: Sequence[CallRecord]) -> dict[str, ImagePrompt]:
    good = _good(calls, "no generator wrote a prompt")
    return {call.agent: ImagePrompt(call.data["prompt"], call.data["negative_prompt"]) for call in good}


def _good(calls: Sequence[CallRecord], otherwise: str) -> list[CallRecord]:
    """The calls that gave something.

    Raises:
        AgentFlyError: none did; the message has the first reason.
    """
    good = [call for call in calls if call.error is None]
    if not good:
        raise AgentFlyError(f"{otherwise}: {calls[0].error if calls else 'nobody was asked'}")
    return good
