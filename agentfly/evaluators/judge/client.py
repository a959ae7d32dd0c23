"""Requests to the judge: retries, broken replies, servers that lack a feature, and the usage of all requests."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, cast

from agentfly.aio import LoopLocal, RateLimiter, Sleep, retrying
from agentfly.errors import ConfigError, EvaluatorError, ToolError
from agentfly.evaluators.guarded import PassingFault
from agentfly.evaluators.judge.replies import BrokenReply, Ratings, Token, expected_rating, read_reply
from agentfly.evaluators.judge.schemes import Question
from agentfly.evaluators.judge.settings import JudgeSettings, JudgeUsage
from agentfly.openai_client import Endpoint, SdkClient

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletionMessageParam
    from openai.types.chat.chat_completion import Choice
    from openai.types.completion_usage import CompletionUsage

logger = logging.getLogger(__name__)

# Fields that a server may not know, and the words by which it says so. Without them a request is as good, or nearly.
_OPTIONAL = {
    "response_format": ("response_format", "json_schema", "guided", "structured"),
    "logprobs": ("logprobs",),
    "temperature": ("temperature",),
    "seed": ("seed",),
}
_REMINDER = "Your last reply was not usable: {reason}. Answer with the JSON object only."
_LONGEST_REASON = 200  # characters
_REFUSALS = ("content_filter", "content_policy", "moderation")


class JudgeClient:
    """Asks questions of a chat endpoint.

    Args:
        settings: address, sampling and limits.
        client: an OpenAI client to use in place of one made from the settings.
        sleep: waits for some seconds between attempts.
    """

    def __init__(
        self, settings: JudgeSettings, client: openai.AsyncOpenAI | None = None, *, sleep: Sleep = asyncio.sleep
    ) -> None:
        self.settings = settings
        endpoint = Endpoint(
            base_url=settings.base_url, api_key_env=settings.api_key_env, timeout=settings.timeout, retries=0
        )
        self._client = SdkClient(endpoint, client)
        self._sleep = sleep
        self._slots = LoopLocal(lambda: asyncio.Semaphore(settings.in_flight))
        per_minute = settings.requests_per_minute
        self._limiter = LoopLocal(lambda: RateLimiter(per_minute)) if per_minute is not None else None
        # Fields that this server has refused; they are not sent to it again.
        self._refused: set[str] = set()

    async def ask(
        self, content: Sequence[Mapping[str, object]], question: Question, number: int, usage: JudgeUsage
    ) -> Ratings:
        """Return the ratings for a question, as given (0 to its highest).

        Args:
            content: images and words of the request.
            question: the question that they ask.
            number: of the pass; seeds differ by it.
            usage: the account that is charged, also where no ratings come.

        Raises:
            EvaluatorError: no ratings after all attempts; the message has the last reason.
            ConfigError: the key or the model is refused.
        """
        reminder: list[Mapping[str, object]] = []
        numbers = count(number * self.settings.attempts)

        async def attempt() -> Ratings:
            try:
                return await self._attempt([*content, *reminder], question, next(numbers), usage)
            except BrokenReply as fault:
                reason = str(fault)
                if len(reason) > _LONGEST_REASON:
                    reason = f"{reason[: _LONGEST_REASON - 3]}..."
                reminder[:] = [{"type": "text", "text": _REMINDER.format(reason=reason)}]
                raise

        def wait(failed: int, fault: PassingFault) -> float:
            if isinstance(fault, BrokenReply):
                return 0.0
            return min(self.settings.max_wait, max(self.settings.first_wait * 2.0**failed, fault.wait))

        try:
            ratings: Ratings = await retrying(self.settings.attempts, PassingFault, wait, sleep=self._sleep)(attempt)
        except PassingFault as fault:
            reason = self._client.redact(str(fault))
            raise EvaluatorError(
                f"the judge {self.settings.model} gave no ratings in {self.settings.attempts} attempts: {reason}"
            ) from fault
        return ratings

    async def check_ready(self) -> None:
        """Check without cost that the endpoint answers and serves the model.

        Raises:
            EvaluatorError: it does not answer.
            ConfigError: the key is missing or refused, or the model is not served.
        """
        try:
            await self._client.check_model(self.settings.model, f"the judge {self.settings.model}")
        except ToolError as fault:
            raise EvaluatorError(str(fault)) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _attempt(
        self, content: list[Mapping[str, object]], question: Question, seed: int, usage: JudgeUsage
    ) -> Ratings:
        async with self._slots.get():
            if self._limiter is not None:
                await self._limiter.get().acquire()
            started = time.perf_counter()
            usage.requests += 1
            try:
                reply = await self._send(content, question, seed)
                # A server's JSON need not have the form of a completion.
                counted: CompletionUsage | None = getattr(reply, "usage", None)
                if counted is not None:
                    prompt, completion = int(counted.prompt_tokens or 0), int(counted.completion_tokens or 0)
                    usage.prompt_tokens += prompt
                    usage.completion_tokens += completion
                    usage.cost += (prompt * self.settings.input_price + completion * self.settings.output_price) / 1e6
                return self._read(reply, question)
            except BaseException:
                usage.failed += 1
                raise
            finally:
                usage.seconds += time.perf_counter() - started

    async def _send(self, content: list[Mapping[str, object]], question: Question, seed: int) -> object:
        """Return the server's reply. Fields that it does not know are left out from then on."""
        import openai

        model, timeout = self.settings.model, self.settings.timeout
        messages = cast("list[ChatCompletionMessageParam]", [{"role": "user", "content": content}])
        create = self._client.get().chat.completions.create
        while True:
            options = self._options(question, seed)
            try:
                return await asyncio.wait_for(create(model=model, messages=messages, **options), timeout)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as refusal:
                self._give_up_option(refusal, options)
            except (TimeoutError, openai.OpenAIError, json.JSONDecodeError) as caught:
                fault = self._client.read_fault(caught, f"the judge {model}")
                if fault.kind in ("key_refused", "not_found"):
                    raise ConfigError(fault.message) from None
                if fault.kind == "timeout":
                    raise PassingFault(f"no answer within {timeout:g} s") from None
                if fault.kind == "no_json":
                    raise PassingFault(f"the server's reply is no JSON ({fault.reason})") from None
                if fault.retryable:
                    raise PassingFault(f"{type(caught).__name__}: {fault.reason}", fault.retry_after or 0.0) from None
                raise EvaluatorError(fault.message) from None

    def _options(self, question: Question, seed: int) -> dict[str, Any]:
        settings = self.settings
        wanted: dict[str, object] = {"response_format": question.schema()}
        if settings.temperature is not None:
            wanted["temperature"] = settings.temperature
        if settings.seed is not None:
            wanted["seed"] = settings.seed + seed
        if settings.expected_score:
            wanted["logprobs"] = True
        kept = {name: value for name, value in wanted.items() if name not in self._refused}
        if "logprobs" in kept:
            kept["top_logprobs"] = settings.top_logprobs
        limit = "max_completion_tokens" if settings.base_url is None else "max_tokens"
        return {**kept, limit: settings.max_tokens}

    def _give_up_option(self, fault: openai.APIStatusError, options: Mapping[str, object]) -> None:
        """Leave out the field that the server does not know.

        Raises:
            BrokenReply: the server's filter refuses the content.
            EvaluatorError: the request is refused for another reason.
        """
        read = self._client.read_fault(fault, f"the judge {self.settings.model}")
        words = f"{fault.message} {fault.code or ''} {fault.param or ''}".lower()
        if any(mark in words for mark in _REFUSALS):
            raise BrokenReply(f"the server refused to judge ({read.reason})") from None
        for name, marks in _OPTIONAL.items():
            if name in options and any(mark in words for mark in marks):
                logger.warning("judge %s: the server refuses %s, going on without", self.settings.model, name)
                self._refused.add(name)
                return
        raise EvaluatorError(read.message) from None

    def _read(self, reply: object, question: Question) -> Ratings:
        choices: Sequence[Choice] | None = getattr(reply, "choices", None)
        if not choices or choices[0].message is None:
            raise BrokenReply("the reply has no choices")
        choice = choices[0]
        if getattr(choice.message, "refusal", None) or choice.finish_reason == "content_filter":
            raise BrokenReply("the judge refused to answer")
        if choice.finish_reason == "length":
            raise BrokenReply(f"the reply was cut off at {self.settings.max_tokens} tokens: raise max_tokens")
        ratings = read_reply(choice.message.content or "", question)
        tokens: list[Token] = []
        if self.settings.expected_score:
            for entry in (choice.logprobs and choice.logprobs.content) or ():
                others = {other.token: other.logprob for other in entry.top_logprobs or ()}
                tokens.append(Token(entry.token, tuple({entry.token: entry.logprob, **others}.items())))
        means = {name: expected_rating(tokens, name, question.highest) for name in ratings.values}
        values = {name: value if means[name] is None else means[name] for name, value in ratings.values.items()}
        return Ratings({name: float(value or 0.0) for name, value in values.items()}, ratings.feedback)
