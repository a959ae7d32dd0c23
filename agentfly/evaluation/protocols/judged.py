"""The evaluator of a protocol that judges: the authors' requests to a vision-language model, and their scores."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from agentfly.aio import Sleep, gather_or_cancel
from agentfly.errors import ConfigError
from agentfly.evaluation.protocols.base import Ask, Encoding, JudgedProtocol
from agentfly.evaluation.protocols.prompts import read_prompts
from agentfly.evaluation.protocols.registry import find_protocol, find_split
from agentfly.evaluators import EditSample, Score
from agentfly.evaluators.judge.judge import JudgeEvaluator
from agentfly.evaluators.judge.settings import JudgeSettings, JudgeUsage
from agentfly.images import data_uri, on_white

if TYPE_CHECKING:
    import openai

# Settings of our own judge that a protocol decides itself.
_DECIDED = ("scheme", "rubric", "passes", "expected_score", "top_logprobs", "max_pixels")


def judge_settings(protocol: JudgedProtocol, judge: Mapping[str, object] | None) -> JudgeSettings:
    """Return the settings of a protocol's judge.

    Args:
        protocol: has the authors' judge.
        judge: fields of `JudgeSettings` in place of the authors', such as `model`, `base_url` and prices.

    Raises:
        ConfigError: a field is wrong, or is one that the protocol decides.
    """
    for name in judge or {}:
        if name in _DECIDED:
            raise ConfigError(f"--judge {name}: the protocol {protocol.name} decides this; leave it out")
    # Hosted judges are asked at the pace that their limits allow, and longer than our own scheme is.
    return JudgeSettings(**{"timeout": 300.0, **protocol.judge, **(judge or {})})


class ProtocolJudge(JudgeEvaluator):
    """Scores by the requests of a protocol. A sample without a result gets the lowest ratings, and nothing is asked.

    Args:
        protocol: name of the protocol.
        split: of the benchmark; None for the default.
        root: folder with the authors' prompts; None downloads them.
        judge: see `judge_settings`.
        client: an OpenAI client to use in place of one made from the settings.
        sleep: waits for some seconds between attempts.

    Attributes:
        prompts: of the split.

    Raises:
        ConfigError: the protocol or the split is unknown, or the prompts cannot be read.
    """

    def __init__(
        self,
        protocol: str,
        split: str | None = None,
        root: str | None = None,
        judge: Mapping[str, object] | None = None,
        client: openai.AsyncOpenAI | None = None,
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        found = find_protocol(protocol)
        if not isinstance(found, JudgedProtocol):
            raise ConfigError(f"{protocol} is measured, not judged: leave --judge out")
        self.protocol = found
        self.prompts = read_prompts(found, find_split(found, split)[0], None if root is None else Path(root))
        super().__init__(judge_settings(found, judge), client, sleep=sleep)

    async def check_sample(self, sample: EditSample) -> None:
        """Look for what the requests need, such as a reference; see `NeedsOfSamples.check_sample`."""
        await asyncio.to_thread(self.protocol.asks, sample, on_white(sample.source), self.prompts.texts)

    async def _score(self, sample: EditSample, usage: JudgeUsage) -> Score:
        metadata = sample.metadata
        if sample.result is None:
            return Score(*_value(self.protocol, self.protocol.lowest(metadata), metadata, "There is no result."))
        result, encoding = on_white(sample.result), self.protocol.encoding(metadata)
        asks = await asyncio.to_thread(self.protocol.asks, sample, result, self.prompts.texts)
        contents = [await asyncio.to_thread(request_content, ask, encoding) for ask in asks]
        found = await gather_or_cancel(
            self._client.ask(content, ask, 0, usage) for ask, content in zip(asks, contents, strict=True)
        )
        ratings = {name: value for ratings in found for name, value in ratings.items()}
        return Score(*_value(self.protocol, ratings, metadata, ""))


def _value(
    protocol: JudgedProtocol, ratings: Mapping[str, float], metadata: Mapping[str, object], feedback: str
) -> tuple[float, str, dict[str, float]]:
    value, aspects = protocol.score(ratings, metadata)
    return value, feedback, aspects


def request_content(ask: Ask, encoding: Encoding) -> list[Mapping[str, object]]:
    """Return the content of a message to the judge.

    Args:
        ask: words and images in their order.
        encoding: of the images.
    """
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": _image_url(part, encoding)}
        for part in ask.content
    ]


def _image_url(image: Image.Image, encoding: Encoding) -> dict[str, str]:
    if encoding.longest is not None:
        image = image.copy()
        image.thumbnail((encoding.longest, encoding.longest))
    options = {"quality": encoding.quality} if encoding.form == "jpeg" else {}
    found = {"url": data_uri(image, encoding.form, **options)}
    return found if encoding.detail is None else {**found, "detail": encoding.detail}
