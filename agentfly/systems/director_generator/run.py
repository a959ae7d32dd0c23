"""One run: directors brief, generators write, images are made, directors judge, generators refine.

A failure is recorded, and the run goes on with the rest; it ends where a phase yields nothing at all. A round without
an image is the exception: the generators are told the reason and may find other words, once. Limits are checked in
this order: the recursion limit before every phase, the threshold after every critique, then the rounds.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TypeVar, cast

from PIL import Image

from agentfly.errors import AgentFlyError, BackendError, ConfigError, ToolError
from agentfly.evaluators import EditSample, Evaluator
from agentfly.images import ImageStore
from agentfly.systems.director_generator.chat import Chat, Reader, read_brief, read_critique, read_prompt
from agentfly.systems.director_generator.prompts import IMAGE_EDITOR, TEXT_TO_IMAGE, PhasePrompt
from agentfly.systems.director_generator.records import (
    EVALUATOR,
    PERSON,
    CallRecord,
    Critique,
    ImageRecord,
    Phase,
    PhaseRecord,
    Role,
    RunRecord,
    Status,
    best_of,
)
from agentfly.systems.director_generator.settings import Persona, Studio
from agentfly.systems.generators import ImageGenerator, ImageRequest
from agentfly.systems.generators.placeholder import PlaceholderGenerator
from agentfly.systems.person import Opinion

T = TypeVar("T")


Review = Callable[[ImageRecord], Opinion]
"""Asks a person about an image that is judged and written; the run waits meanwhile."""


class RecursionLimit(AgentFlyError):
    """A run would begin more phases than it may."""


@dataclass(frozen=True)
class Request:
    """A wish in words, and images that belong to it; an editor is given the first one."""

    prompt: str
    images: tuple[Image.Image, ...] = ()


class Watcher:
    """A listener that hears of every event of a run. This one ignores them; a subclass acts on those that it needs."""

    def phase_begins(self, phase: PhaseRecord) -> None:
        """Hear that a phase begins."""

    def called(self, phase: PhaseRecord, call: CallRecord) -> None:
        """Hear of an agent's answer, or of its failure."""

    def painted(self, phase: PhaseRecord, record: ImageRecord, image: Image.Image | None) -> None:
        """Hear of an image, which is None where it could not be made; `record.file` may be set."""

    def phase_ended(self, run: RunRecord) -> None:
        """Hear that a phase is over; the record is up to date."""


@dataclass(frozen=True)
class Crew:
    """Everything that runs share.

    Attributes:
        studio: settings, personas and prompts.
        chat: asks the models.
        generator: makes the images.
        edits: the generator edits the first image of a request; otherwise it makes images from text alone.
        store: keeps the images.
        evaluator: judges every image beside the directors; None for none.
    """

    studio: Studio
    chat: Chat
    generator: ImageGenerator
    edits: bool
    store: ImageStore
    evaluator: Evaluator | None = None


class Run:
    """The state of one run.

    Args:
        crew: works on this run, and on others at the same time.
        request: the wish.
        record: filled as the run goes on.
        watcher: told of every event.
        review: asks a person about every image; None asks nobody.
    """

    def __init__(
        self, crew: Crew, request: Request, record: RunRecord, watcher: Watcher, review: Review | None = None
    ) -> None:
        self._crew, self._studio, self._review = crew, crew.studio, review
        self._request, self._record, self._watcher = request, record, watcher
        self._given = tuple(crew.store.put(image) for image in request.images)
        self._briefs: dict[str, str] = {}
        seed = self._studio.settings.sdxl.seed
        self._seed = secrets.randbelow(2**32) if seed is None else seed

    async def go(self) -> Status:
        """Run to the end.

        Raises:
            RecursionLimit: more phases than allowed.
            AgentFlyError: a phase yielded nothing, or the settings are wrong.
        """
        settings, template = self._studio.settings, self._studio.prompts.brief
        with self._phase("brief", 0) as phase:
            calls = await _settled(
                self._ask(phase, "director", who, template, read_brief, self._given) for who in self._studio.directors
            )
            usable = _usable(calls, "no director wrote a brief")
            self._briefs = {call.agent: str(call.data["brief"]) for call in usable}
        prompts, imageless = await self._write_prompts("write", 1), False
        for loop in range(1, settings.max_loops + 1):
            imageless = not await self._make_images(loop, prompts, again=imageless)
            if not imageless:
                await self._judge(loop)
            best = self._record.best
            if best is not None and not best.stand_in and (best.score or 0.0) >= settings.evaluation_threshold:
                return "threshold"
            if loop < settings.max_loops:
                prompts = await self._write_prompts("refine", loop + 1)
        return "max_loops"

    async def _judge(self, loop: int) -> None:
        """Have the images of a round judged: by the directors, the evaluator, and the person, whose score decides."""
        made = [image for image in self._record.images if image.loop == loop and image.handle]
        with self._phase("critique", loop) as phase:
            work = (self._critique(phase, image, who) for image in made for who in self._studio.directors)
            calls = await _settled(work)
            if (evaluator := self._crew.evaluator) is not None:
                calls += await _settled(self._evaluate(phase, image, evaluator) for image in made)
            _usable(calls, "no director scored any image")
            if self._review is not None:
                for image in made:
                    self._heed(image, self._review(image))

    async def _write_prompts(self, name: Phase, loop: int) -> dict[str, ImageRequest]:
        """Ask every generator for the prompt of a round."""
        with self._phase(name, loop) as phase:
            # A generator that gave no prompt for the last round goes on from its last image of an earlier one.
            last = {image.generator: image for image in self._record.images}
            calls = await _settled(self._revise(phase, who, last.get(who.name)) for who in self._studio.generators)
            return {
                call.agent: ImageRequest(str(call.data["prompt"]), negative_prompt=str(call.data["negative_prompt"]))
                for call in _usable(calls, "no generator wrote a prompt")
            }

    async def _make_images(self, loop: int, prompts: dict[str, ImageRequest], *, again: bool) -> bool:
        """Make the images of a round and return whether there is one; `again` says that the last round had none."""
        with self._phase("paint", loop) as phase:
            first = self._seed + len(self._record.images)
            phase.images += [
                ImageRecord(loop, name, wanted.prompt, wanted.negative_prompt, (first + index) % 2**32)
                for index, (name, wanted) in enumerate(prompts.items())
            ]
            await _settled(self._make_image(phase, image) for image in phase.images)
            made = any(image.handle for image in phase.images)
            if not made and (again or loop == self._studio.settings.max_loops):
                raise AgentFlyError(f"no image could be made: {phase.images[0].fault}")
            return made

    async def _make_image(self, phase: PhaseRecord, record: ImageRecord) -> None:
        generator, image, started = self._crew.generator, None, time.perf_counter()
        references = self._request.images[:1] if self._crew.edits else ()
        request = ImageRequest(
            record.prompt, references=references, negative_prompt=record.negative_prompt, seed=record.seed
        )
        try:
            made = await generator.generate(request)
            image, record.fault, record.stand_in = made.image, made.stand_in, made.stand_in is not None
            record.engine = PlaceholderGenerator.name if record.stand_in else generator.name
            record.handle = await asyncio.to_thread(self._crew.store.put, image)
        except (ToolError, BackendError) as fault:
            record.engine, record.fault = generator.name, str(fault)
        record.seconds = time.perf_counter() - started
        self._watcher.painted(phase, record, image)

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
            # `read_critique` made it.
            _add_critique(image, who.name, cast(Critique, dict(call.data)))
        return call

    async def _evaluate(self, phase: PhaseRecord, image: ImageRecord, evaluator: Evaluator) -> CallRecord:
        """Have the evaluator score an image by the request; a sample that it cannot score is a failed call."""
        result, started = self._crew.store.get(str(image.handle)), time.perf_counter()
        source = self._request.images[0] if self._request.images else Image.new("RGB", result.size, "white")
        if source.size != result.size:
            source = source.resize(result.size, Image.Resampling.LANCZOS)
        name, handles = type(evaluator).__name__, (*self._given, str(image.handle))
        call = CallRecord("director", EVALUATOR, name, "evaluator", "", self._request.prompt, handles, attempts=1)
        try:
            score = await evaluator.evaluate(EditSample(self._request.prompt, source, result))
            critique: Critique = {"score": score.value, "feedback": score.feedback}
            call = replace(call, reply=score.feedback, data=dict(critique))
            _add_critique(image, EVALUATOR, critique)
        except AgentFlyError as fault:
            if isinstance(fault, ConfigError):
                raise
            call = replace(call, error=str(fault))
        call = replace(call, seconds=time.perf_counter() - started)
        phase.calls.append(call)
        self._watcher.called(phase, call)
        return call

    @staticmethod
    def _heed(image: ImageRecord, said: Opinion) -> None:
        if said.score is None and not said.words:
            return
        score = image.score or 0.0 if said.score is None else said.score
        image.critiques[PERSON] = {"score": score, "feedback": said.words}
        image.score = score if said.score is not None else image.score

    async def _revise(self, phase: PhaseRecord, who: Persona, image: ImageRecord | None) -> CallRecord:
        """Ask a generator for a better prompt than that of its image, or for its first one."""
        prompts = self._studio.prompts
        briefs = "\n\n".join(f"{name}:\n{brief}" for name, brief in self._briefs.items())
        if image is None:
            return await self._ask(phase, "generator", who, prompts.write, read_prompt, self._given, briefs=briefs)
        critiques = [
            f"{name} ({said['score']:.0f} points): {said['feedback']}" for name, said in image.critiques.items()
        ]
        if image.handle is None:
            critiques = [f"The image could not be made: {image.fault}"]
        best = best_of([other for other in self._record.images if other.generator != image.generator])
        better = best is not None and (image.score or 0.0) < (best.score or 0.0)
        return await self._ask(
            phase,
            "generator",
            who,
            prompts.refine,
            read_prompt,
            self._given if image.handle is None else (*self._given, image.handle),
            briefs=briefs,
            prompt=_prompt_text(image),
            score="none" if image.score is None else f"{image.score:.0f}",
            critiques="\n".join(critiques) or "Nobody could judge it.",
            best=f"{best.generator} has {best.score:.0f} points with this prompt:\n{_prompt_text(best)}"
            if best is not None and better
            else "Nobody else has a better one.",
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
        medium = IMAGE_EDITOR if self._crew.edits else TEXT_TO_IMAGE
        words = template.fill(name=who.name, persona=who.persona, request=self._request.prompt, medium=medium, **values)
        call = await self._crew.chat.ask(role, who, words, read, images, self._crew.store)
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


def _add_critique(image: ImageRecord, name: str, critique: Critique) -> None:
    image.critiques[name] = critique
    image.score = fmean(known["score"] for known in image.critiques.values())


async def _settled(work: Iterable[Awaitable[T]]) -> list[T]:
    """Return the results in order, once all work is done; then raise the first exception, if there is one."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def _prompt_text(image: ImageRecord) -> str:
    negative = f"\nNegative prompt: {image.negative_prompt}" if image.negative_prompt else ""
    return f"{image.prompt}{negative}"


def _usable(calls: Sequence[CallRecord], otherwise: str) -> list[CallRecord]:
    """Return the calls whose replies can be used.

    Raises:
        AgentFlyError: there are none; the message has the first reason.
    """
    usable = [call for call in calls if call.error is None]
    if not usable:
        raise AgentFlyError(f"{otherwise}: {calls[0].error if calls else 'nobody was asked'}")
    return usable
