"""A vision-language model as judge: any model behind an OpenAI-compatible endpoint, in the cloud or on your own GPUs.

A sample that it cannot judge is "not scored" with the reason, and never gets a middle value. Images are sent as data
URIs of limited size. The result is resized to the source, so that a change of size is neither seen nor judged.
"""

from __future__ import annotations

import asyncio
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from agentfly.aio import Sleep, gather_or_cancel
from agentfly.errors import EvaluatorError
from agentfly.evaluators.base import EditSample, Score
from agentfly.evaluators.judge.client import JudgeClient
from agentfly.evaluators.judge.replies import Ratings
from agentfly.evaluators.judge.schemes import Question, find_scheme
from agentfly.evaluators.judge.settings import JudgeSettings, JudgeUsage
from agentfly.evaluators.rubrics import Rubric, load_rubric
from agentfly.images import data_uri as encode_data_uri
from agentfly.images import on_white

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)


class JudgeEvaluator(ABC):
    """An evaluator that asks a vision-language model and keeps account of it; subclasses say what is asked.

    Args:
        settings: address, sampling and limits.
        client: an OpenAI client to use in place of one made from the settings.
        sleep: waits for some seconds between attempts.

    Attributes:
        usage: cost of this judge so far.
    """

    def __init__(
        self, settings: JudgeSettings, client: openai.AsyncOpenAI | None = None, *, sleep: Sleep = asyncio.sleep
    ) -> None:
        self.settings = settings
        self.usage = JudgeUsage()
        self._client = JudgeClient(settings, client, sleep=sleep)

    async def evaluate(self, sample: EditSample) -> Score:
        """Score one sample.

        Raises:
            EvaluatorError: the judge gave no ratings, in the attempts that the settings allow.
            ConfigError: the endpoint refuses the key or the model.
        """
        return (await self.evaluate_with_usage(sample))[0]

    async def evaluate_with_usage(self, sample: EditSample) -> tuple[Score, JudgeUsage]:
        """Return the score of one sample and its cost; raises as `evaluate` does."""
        usage = JudgeUsage(samples=1)
        try:
            return await self._score(sample, usage), usage
        except EvaluatorError:
            usage.not_scored = 1
            raise
        finally:
            self.usage.add(usage)
            logger.debug(
                "judge %s: %d requests, %d + %d tokens, cost %.6f, %.2f s",
                *(self.settings.model, usage.requests, usage.prompt_tokens, usage.completion_tokens),
                *(usage.cost, usage.seconds),
            )

    async def check_ready(self) -> None:
        """Ask the endpoint for its list of models, which costs nothing; see `AsksOthers.check_ready`."""
        await self._client.check_ready()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    @abstractmethod
    async def _score(self, sample: EditSample, usage: JudgeUsage) -> Score:
        """Return the score of a sample, and charge the requests for it to an account."""


class VlmJudge(JudgeEvaluator):
    """Scores by asking a vision-language model.

    In each pass all questions of the scheme are asked at once. The score is the mean over passes of the scheme's score,
    and an aspect is the mean of its rating, from 0 to 1. Where the scheme judges edits, a result that equals the source
    in every pixel is worth 0 and no request is sent.

    Args:
        settings: address, sampling and limits.
        rubric: a rubric in place of the settings' one.
        client: an OpenAI client to use in place of one made from the settings.
        sleep: waits for some seconds between attempts.

    Attributes:
        usage: cost of this judge so far.

    Raises:
        ConfigError: the scheme or the rubric is unknown.
    """

    def __init__(
        self,
        settings: JudgeSettings,
        rubric: Rubric | None = None,
        client: openai.AsyncOpenAI | None = None,
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.scheme = find_scheme(settings.scheme)
        if rubric is None and settings.rubric is not None:
            rubric = load_rubric(settings.rubric)
        self.rubric = rubric
        super().__init__(settings, client, sleep=sleep)

    async def _score(self, sample: EditSample, usage: JudgeUsage) -> Score:
        if sample.result is None:
            return Score(0.0, "There is no result.")
        before, after, changed = await asyncio.to_thread(comparable, sample.source, sample.result)
        if not changed and self.scheme.edits:
            return Score(0.0, "The image is unchanged.")
        limit = self.settings.max_pixels
        images = {
            name: await asyncio.to_thread(data_uri, image, limit)
            for name, image in (("source", before), ("result", after))
            if any(name in question.shown for question in self.scheme.questions)
        }
        contents = [self._content(question, sample.instruction, images) for question in self.scheme.questions]
        numbers = range(self.settings.passes)
        # The cost of all requests belongs to this sample, and is known only when all of them have ended.
        answers = await gather_or_cancel(
            self._client.ask(content, question, number, usage)
            for number in numbers
            for question, content in zip(self.scheme.questions, contents, strict=True)
        )
        width = len(self.scheme.questions)
        return self._mean([answers[number * width : (number + 1) * width] for number in numbers])

    def _content(self, question: Question, instruction: str, images: Mapping[str, str]) -> list[Mapping[str, object]]:
        rubric = self.rubric.for_judge() if self.rubric is not None and question.has_instruction else ""
        shown: list[Mapping[str, object]] = [
            {"type": "image_url", "image_url": {"url": images[name]}} for name in question.shown
        ]
        return [*shown, {"type": "text", "text": question.text(instruction, rubric)}]

    def _mean(self, passes: Sequence[Sequence[Ratings]]) -> Score:
        """Return the mean of passes, each with one answer for every question."""
        shares: list[dict[str, float]] = []
        for answers in passes:
            pairs = zip(self.scheme.questions, answers, strict=True)
            shares.append({name: value / q.highest for q, answer in pairs for name, value in answer.values.items()})
        value = math.fsum(self.scheme.combine(share) for share in shares) / len(shares)
        aspects = {name: math.fsum(share[name] for share in shares) / len(shares) for name in shares[0]}
        feedback = " ".join(answer.feedback for answer in passes[0] if answer.feedback)
        return Score(min(value, 100.0), feedback, aspects)


def comparable(source: Image.Image, result: Image.Image) -> tuple[Image.Image, Image.Image, bool]:
    """Return both images on white in the size of the source, and True if any pixel differs.

    Args:
        source: before the edit.
        result: after it, of any size.
    """
    before, after = on_white(source), on_white(result)
    if after.size != before.size:
        after = after.resize(before.size, Image.Resampling.BICUBIC)
    return before, after, not np.array_equal(np.asarray(before), np.asarray(after))


def data_uri(image: Image.Image, max_pixels: int) -> str:
    """Return an image as a PNG data URI; PNG, because the artefacts of compression would be judged, too.

    Args:
        image: of any size.
        max_pixels: an image with more pixels is scaled down.
    """
    scale = math.sqrt(max_pixels / (image.width * image.height))
    if scale < 1.0:
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    return encode_data_uri(image)
