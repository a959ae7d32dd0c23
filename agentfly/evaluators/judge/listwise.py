"""A judge that ranks the results of one task against each other, in place of rating each of them.

A rating of one image depends on how strict the judge is in that call, which is no property of the image. In a ranking
all results share the call, and that part of the noise is gone. A ranking says nothing about how good the best result
is: outside of a group, and where a group cannot be ranked, the judge rates as `VlmJudge` does.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from pydantic import Field

from agentfly.aio import gather_or_cancel
from agentfly.errors import EvaluatorError
from agentfly.evaluators.base import EditSample, NotScored, Score, score_or_reason
from agentfly.evaluators.judge.judge import VlmJudge, comparable, data_uri
from agentfly.evaluators.judge.ranking import Block, Ranked, RankQuestion, agreement, beaten, orders
from agentfly.evaluators.judge.settings import JudgeSettings, JudgeUsage

logger = logging.getLogger(__name__)


class ListwiseSettings(JudgeSettings):
    """Settings of the listwise judge; the fields of `JudgeSettings` are for its single ratings, too.

    Attributes:
        orders: times that the results are ranked, each time in another order; every second one is the reverse of the
            one before.
        candidates: results in one request at most; more of them are dealt to several requests, anew in each order.
    """

    orders: int = Field(2, ge=1)
    candidates: int = Field(8, ge=2)


@dataclass(frozen=True)
class _Group:
    """The results of a task.

    Attributes:
        images: those that are ranked, each once.
        samples: for each of them, a sample that has it.
        place: of each sample's image among them; None where the score is known without a question.
        known: the scores of the others, by the number of their sample.
        source: the image before.
    """

    images: Sequence[Image.Image]
    samples: Sequence[EditSample]
    place: Sequence[int | None]
    known: Mapping[int, Score]
    source: Image.Image


class ListwiseJudge(VlmJudge):
    """Scores a group of results by their ranks.

    With m different images in the group, of which c are compared by the judge, and b_i the share of the others that
    image i beats in its requests, mean over the orders (`agentfly.evaluators.judge.ranking.beaten`):

        score_i = 100 * ((c - 1) * b_i + m - c) / (m - 1)

    A result that equals the source, and a missing one, is worth 0 without a question, and is beaten by all others.
    Equal images are one candidate and have one score. With fewer than two candidates there is nothing to rank, and a
    judge may fail to rank: then each candidate gets its single score (`VlmJudge`), all of the group alike, and these
    scores are not relative.

    Args:
        settings: of the judge.
        **rest: see `VlmJudge`.
    """

    settings: ListwiseSettings
    relative = True

    async def evaluate_group(self, samples: Sequence[EditSample]) -> list[Score | NotScored]:
        """Score the results of one task; see `GroupEvaluator.evaluate_group`.

        Aspects are the share of the other images that were beaten with each order, and how far the orders agree: 1 if
        fully, 0.5 for chance.

        Raises:
            ConfigError: the endpoint refuses the key or the model.
        """
        group = await asyncio.to_thread(self._group, samples)
        found: Sequence[Score | NotScored] | None = None
        if len(group.images) > 1:
            try:
                found = await self._ranked(group)
            except EvaluatorError as fault:
                logger.warning("%d results get single scores, because they were not ranked: %s", len(samples), fault)
        if found is None:
            found = await gather_or_cancel(score_or_reason(self, sample) for sample in group.samples)
        return [group.known[n] if place is None else found[place] for n, place in enumerate(group.place)]

    def _group(self, samples: Sequence[EditSample]) -> _Group:
        images: dict[bytes, tuple[Image.Image, EditSample]] = {}
        keys: list[bytes | None] = []
        known: dict[int, Score] = {}
        before = samples[0].source
        for number, sample in enumerate(samples):
            if sample.result is None:
                known[number] = Score(0.0, "There is no result.")
                keys.append(None)
                continue
            before, after, changed = comparable(sample.source, sample.result)
            if not changed and self.scheme.edits:
                known[number] = Score(0.0, "The image is unchanged.")
                keys.append(None)
                continue
            key = hashlib.sha256(np.asarray(after).tobytes()).digest()
            images.setdefault(key, (after, sample))
            keys.append(key)
        # Sorted by content, so that the shuffle does not depend on the order in which chains ended.
        order = {key: place for place, key in enumerate(sorted(images))}
        chosen = [images[key] for key in order]
        return _Group(
            [image for image, _ in chosen],
            [sample for _, sample in chosen],
            [None if key is None else order[key] for key in keys],
            known,
            before,
        )

    async def _ranked(self, group: _Group) -> list[Score]:
        """Return the score of each image of a group.

        Raises:
            EvaluatorError: the judge gave no ranking.
        """
        count, usage = len(group.images), JudgeUsage(samples=len(group.place))
        try:
            passes = await self._ask(group, usage)
        except EvaluatorError:
            # They are not lost: their single scores count them again.
            usage.samples = 0
            raise
        finally:
            self.usage.add(usage)
        shares, alike = beaten(count, passes), agreement(passes)
        others = count if group.known else count - 1
        notes = {block[place]: note for block, ranked in passes[0] for place, note in enumerate(ranked.notes)}
        scores = []
        for place, column in enumerate(shares.T):
            share = ((count - 1) * float(column.mean()) + others - count + 1) / others
            aspects = {f"order_{number}": float(value) for number, value in enumerate(column, 1)}
            aspects |= {} if alike is None else {"agreement": alike}
            scores.append(Score(100.0 * min(share, 1.0), notes[place], aspects, relative=True))
        return scores

    async def _ask(self, group: _Group, usage: JudgeUsage) -> list[list[tuple[Block, Ranked]]]:
        count, instruction = len(group.images), group.samples[0].instruction
        limit = self.settings.max_pixels
        shown = [await asyncio.to_thread(data_uri, image, limit) for image in group.images]
        before = await asyncio.to_thread(data_uri, group.source, limit) if self.scheme.edits else None
        seed = hashlib.sha256("\n".join([instruction, *shown]).encode("utf-8", "surrogatepass")).hexdigest()
        planned = orders(count, self.settings.orders, self.settings.candidates, random.Random(seed))
        rubric = self.rubric.for_judge() if self.rubric is not None else ""

        async def rank(block: Block, number: int) -> tuple[Block, Ranked]:
            question = RankQuestion(len(block), self.scheme.edits)
            content: list[Mapping[str, object]] = [] if before is None else _labelled("Before:", before)
            for label, place in enumerate(block, 1):
                content += _labelled(f"Result {label}:", shown[place])
            words = {"type": "text", "text": question.text(instruction, rubric)}
            return block, await self._client.ask([*content, words], question, number, usage)

        requests = [(number, block) for number, blocks in enumerate(planned) for block in blocks]
        answers = iter(await gather_or_cancel(rank(block, number) for number, block in requests))
        return [[next(answers) for _ in blocks] for blocks in planned]


def _labelled(label: str, image: str) -> list[Mapping[str, object]]:
    return [{"type": "text", "text": label}, {"type": "image_url", "image_url": {"url": image}}]
