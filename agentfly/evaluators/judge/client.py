"""Requests to the judge: retries, broken replies, servers that lack a feature, and the usage of all requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

from agentfly.aio import LoopLocal, RateLimiter, Sleep, retrying
from agentfly.errors import ConfigError, EvaluatorError, ToolError
from agentfly.evaluators.guarded import PassingFault
from agentfly.evaluators.judge.replies import BrokenReply, Ratings, expected_rating, read_reply, read_tokens
from agentfly.evaluators.judge.schemes import Question
from agentfly.evaluators.judge.settings import JudgeSettings, JudgeUsage
from agentfly.lenient_json import count_of, field_of
from agentfly.openai_client import Endpoint, SdkClient, is_fault
from agentfly.openai_compat import FAILED_FINISHES, split_content

if TYPE_CHECKING:
    import openai

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
                counted = field_of(reply, "usage")
                prompt, completion = count_of(counted, "prompt_tokens"), count_of(counted, "completion_tokens")
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
        model, timeout = self.settings.model, self.settings.timeout
        messages = [{"role": "user", "content": content}]
        try:
            return await self._client.complete({"messages": messages, **self._options(question, seed)}, timeout)
        except Exception as caught:
            if not is_fault(caught):
                raise
            fault = self._client.read_fault(caught, f"the judge {model}")
            words = f"{fault.reason} {fault.code or ''} {getattr(caught, 'param', None) or ''}".lower()
            # Some gateways refuse content with 403.
            if fault.kind in ("refused", "key_refused") and any(mark in words for mark in _REFUSALS):
                raise BrokenReply(f"the server refused to judge ({fault.reason})") from None
            if fault.kind in ("key_refused", "not_found"):
                raise ConfigError(fault.message) from None
            if fault.kind == "timeout":
                raise PassingFault(f"no answer within {timeout:g} s") from None
            if fault.kind == "no_json":
                raise PassingFault(
                    f"the server's reply is no JSON ({fault.reason}): check that base_url ends in /v1"
                ) from None
            if fault.retryable:
                raise PassingFault(f"{type(caught).__name__}: {fault.reason}", fault.retry_after or 0.0) from None
            raise EvaluatorError(fault.message) from None

    def _options(self, question: Question, seed: int) -> dict[str, object]:
        settings = self.settings
        limit = "max_completion_tokens" if settings.base_url is None else "max_tokens"
        options: dict[str, object] = {
            "model": settings.model,
            "response_format": question.schema(),
            limit: settings.max_tokens,
        }
        if settings.temperature is not None:
            options["temperature"] = settings.temperature
        if settings.seed is not None:
            options["seed"] = settings.seed + seed
        if settings.expected_score:
            options |= {"logprobs": True, "top_logprobs": settings.top_logprobs}
        return options

    def _read(self, reply: object, question: Question) -> Ratings:
        choices = field_of(reply, "choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message, finish = field_of(choice, "message"), field_of(choice, "finish_reason")
        if message is None:
            raise BrokenReply("the reply has no choices")
        if field_of(message, "refusal") or finish == "content_filter":
            raise BrokenReply("the judge refused to answer")
        if isinstance(finish, str) and finish.lower() in FAILED_FINISHES:
            raise PassingFault(f"the server broke off (finish_reason {finish!r})")
        if finish == "length":
            raise BrokenReply(f"the reply was cut off at {self.settings.max_tokens} tokens: raise max_tokens")
        ratings = read_reply(split_content(field_of(message, "content"))[1], question)
        tokens = read_tokens(field_of(choice, "logprobs")) if self.settings.expected_score else []
        means = {name: expected_rating(tokens, name, question.highest) for name in ratings.values}
        values = {name: value if means[name] is None else means[name] for name, value in ratings.values.items()}
        return Ratings({name: float(value or 0.0) for name, value in values.items()}, ratings.feedback)
