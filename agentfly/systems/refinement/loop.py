"""The loop: make an image, judge it, write a better prompt; until it is good enough or the limit is reached.

An iteration that fails (a refusal, moderation, a time-out) is recorded, and the loop goes on with what it has. Only a
fault that no further iteration could escape, a wrong key or model, ends it early.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from PIL import Image

from agentfly.aio import TimeLimitExceeded, with_timeout
from agentfly.errors import AgentFlyError, ConfigError
from agentfly.evaluators import EditSample, Evaluator
from agentfly.systems.generators import GeneratedImage, ImageGenerator, ImageRequest, Usage
from agentfly.systems.refinement.prompter import Critique, NewPrompter, Prompter

logger = logging.getLogger(__name__)


class LoopEnd(StrEnum):
    """The reason that a loop ended."""

    THRESHOLD = "threshold"
    MAX_ITERATIONS = "max_iterations"
    WALL_CLOCK = "wall_clock"
    ERROR = "error"


@dataclass
class Iteration:
    """One round.

    Attributes:
        number: from 1.
        prompt: of the image.
        engine: name of the generator.
        image: None where none was made.
        score: 0 to 100; None where there is no judgement.
        feedback: of the judge.
        aspects: parts of the score.
        fault: the reason that there is no image, or no score; None where there are both.
        prompter_fault: the reason that the next round uses the same prompt again; None for a new prompt.
        seconds: duration of each part: "generate", "evaluate", "refine".
        began: start, in seconds since 1970.
    """

    number: int
    prompt: str
    engine: str = ""
    image: GeneratedImage | None = None
    score: float | None = None
    feedback: str = ""
    aspects: dict[str, float] = field(default_factory=dict)
    fault: str | None = None
    prompter_fault: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.time)

    @property
    def critique(self) -> Critique:
        """The outcome of the iteration, for the prompter."""
        return Critique(self.score, self.feedback, self.fault)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Record the duration of a part."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = time.monotonic() - started


OnIteration = Callable[[Iteration], Awaitable[None]]


@dataclass
class Refinement:
    """The record of one run of a loop.

    Attributes:
        wish: of the user.
        iterations: in order.
        end: the reason that the run ended.
        error: the fault that ended it early, for `LoopEnd.ERROR`.
        thread_id: of the prompter's conversation; None where there was none.
        usage: by role: "generator", "judge", "prompter".
        seconds: of the whole run.
    """

    wish: str
    iterations: list[Iteration] = field(default_factory=list)
    end: LoopEnd = LoopEnd.MAX_ITERATIONS
    error: str | None = None
    thread_id: str | None = None
    usage: dict[str, Usage] = field(default_factory=lambda: {r: Usage() for r in ("generator", "judge", "prompter")})
    seconds: float = 0.0

    @property
    def best(self) -> Iteration | None:
        """The iteration with the highest score, the earliest of equals; without any score, the first with an image."""
        made = [iteration for iteration in self.iterations if iteration.image is not None]
        return max(made, key=lambda iteration: -1.0 if iteration.score is None else iteration.score, default=None)

    @property
    def fault(self) -> str | None:
        """The reasons that there is no image; None where there is one."""
        if self.best is not None:
            return None
        faults = dict.fromkeys(iteration.fault for iteration in self.iterations if iteration.fault)
        return "; ".join(faults) or "nothing was tried"


class RefinementLoop:
    """A loop that refines images. Several runs of one loop can go on at once.

    Args:
        generator: makes the images.
        evaluator: judges them.
        new_prompter: makes the prompter of a run.
        max_iterations: images at most.
        score_threshold: score (0 to 100) at which a run ends.
        wall_clock: seconds of a run at most; None for no limit. The record keeps all that was done until then.
        on_iteration: called with every iteration once its image is made and judged.
        review: called afterwards where there is an image; it may change score, feedback and fault.
    """

    def __init__(
        self,
        generator: ImageGenerator,
        evaluator: Evaluator,
        new_prompter: NewPrompter,
        *,
        max_iterations: int = 5,
        score_threshold: float = 90.0,
        wall_clock: float | None = None,
        on_iteration: OnIteration | None = None,
        review: OnIteration | None = None,
    ) -> None:
        self.generator, self.evaluator, self.new_prompter = generator, evaluator, new_prompter
        self.max_iterations, self.score_threshold = max_iterations, score_threshold
        self.wall_clock, self.on_iteration, self.review = wall_clock, on_iteration, review

    async def run(self, wish: str, references: Sequence[Image.Image] = ()) -> Refinement:
        """Refine an image of a wish.

        Args:
            wish: the first prompt.
            references: images to start from or to look at; the generator gets them until it has made an image.

        Returns:
            The record of the run; its `fault` says why there is no image at all.
        """
        started, done, prompter = time.monotonic(), Refinement(wish), self.new_prompter()
        try:
            await with_timeout(self._run(done, tuple(references), prompter), self.wall_clock or math.inf)
        except TimeLimitExceeded:
            done.end, last = LoopEnd.WALL_CLOCK, done.iterations[-1]
            if last.score is None:
                last.fault = last.fault or f"the run had {self.wall_clock:g} s, which were over"
        except ConfigError as fault:
            done.end, done.error = LoopEnd.ERROR, str(fault)
            logger.error("the loop ends: %s", fault)
        done.thread_id, done.usage["prompter"] = prompter.thread_id, prompter.usage
        done.seconds = time.monotonic() - started
        return done

    async def _run(self, done: Refinement, references: tuple[Image.Image, ...], prompter: Prompter) -> None:
        prompt, previous = done.wish, None
        for number in range(1, self.max_iterations + 1):
            iteration = Iteration(number, prompt)
            done.iterations.append(iteration)
            previous = await self._generate(iteration, done, references, previous)
            try:
                if iteration.image is not None:
                    await self._judge(iteration, done, references)
            finally:
                words = iteration.fault or f"score {iteration.score or 0:.0f}: {iteration.feedback}"
                logger.info("iteration %d of %d: %s", number, self.max_iterations, words)
                if self.on_iteration is not None:
                    await self.on_iteration(iteration)
            if self.review is not None and iteration.image is not None:
                await self.review(iteration)
            if iteration.score is not None and iteration.score >= self.score_threshold:
                done.end = LoopEnd.THRESHOLD
                return
            if number == self.max_iterations:
                return
            with iteration.timed("refine"):
                try:
                    prompt = await prompter.refine(done.wish, prompt, iteration.critique)
                except AgentFlyError as fault:
                    iteration.prompter_fault = str(fault)
                    if isinstance(fault, ConfigError):
                        raise
                    logger.warning("no new prompt (%s): the next iteration uses the last one again", fault)

    async def _generate(
        self,
        iteration: Iteration,
        done: Refinement,
        references: tuple[Image.Image, ...],
        previous: GeneratedImage | None,
    ) -> GeneratedImage | None:
        """Make the image; return the one to go on from."""
        given = references if previous is None else ()
        request = ImageRequest(iteration.prompt, iteration.number, given, previous)
        with iteration.timed("generate"):
            try:
                iteration.image = await self.generator.generate(request)
            except AgentFlyError as fault:
                iteration.fault = str(fault)
                if isinstance(fault, ConfigError):
                    raise
        iteration.engine = self.generator.name
        if iteration.image is None:
            done.usage["generator"].requests += 1
            return previous
        done.usage["generator"].add(iteration.image.usage)
        return iteration.image

    async def _judge(self, iteration: Iteration, done: Refinement, references: Sequence[Image.Image]) -> None:
        from agentfly.evaluators.judge import VlmJudge

        assert iteration.image is not None
        result, asked, usage = iteration.image.image, done.wish, Usage(requests=1)
        if iteration.prompt != done.wish:
            # A prompt that drifted away from the wish must not pay.
            asked = f"{done.wish}\n\nIn this round it was asked for in these words:\n{iteration.prompt}"
        source = references[0] if references else Image.new("RGB", result.size, "white")
        if source.size != result.size:
            # The judge would bring the result to the size of the source, and distort it.
            source = source.resize(result.size, Image.Resampling.LANCZOS)
        sample = EditSample(asked, source, result)
        with iteration.timed("evaluate"):
            try:
                if isinstance(self.evaluator, VlmJudge):
                    score, took = await self.evaluator.evaluate_with_usage(sample)
                    usage = Usage(took.requests, took.prompt_tokens, took.completion_tokens)
                else:
                    score = await self.evaluator.evaluate(sample)
            except AgentFlyError as fault:
                iteration.fault = f"not scored: {fault}"
                if isinstance(fault, ConfigError):
                    raise
                return
        iteration.score, iteration.feedback, iteration.aspects = score.value, score.feedback, dict(score.aspects)
        done.usage["judge"].add(usage)
