"""Requests to the judge: retries, broken replies, servers that lack a feature, and the usage of all requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, Protocol, TypeVar

from agentfly.aio import LoopLocal, RateLimiter, Sleep, retrying
from agentfly.errors import ConfigError, EvaluatorError, ToolError
from agentfly.evaluators.guarded import PassingFault
from agentfly.evaluators.judge.replies import BrokenReply, Token, read_tokens
from agentfly.evaluators.judge.settings import JudgeSettings, JudgeUsage
from agentfly.lenient_json import count_of, field_of
from agentfly.openai_client import Endpoint, SdkClient, is_fault
from agentfly.openai_compat import FAILED_FINISHES, split_content

if TYPE_CHECKING:
    import openai

_REMINDER = "Your last reply was not usable: {reason}. Answer with the JSON object only."
_LONGEST_REASON = 200  # characters
_REFUSALS = ("content_filter", "content_policy", "moderation")
_LONGEST_NAME = 200  # characters of a model's name

Answer = TypeVar("Answer")
Read = TypeVar("Read", covariant=True)


class JudgeForm(Protocol[Read]):
    """The form of the replies to a question, and how they are read."""

    @property
    def wanted(self) -> str:
        """What the replies have, for messages: "ratings"."""
        ...

    @property
    def needs_logprobs(self) -> bool:
        """True if log-probs are asked for, whatever the settings say; a server may give none all the same."""
        ...

    def schema(self) -> dict[str, object] | None:
        """Return the reply's form as OpenAI's `response_format`; None asks for plain text, without a reminder."""
        ...

    def read(self, text: str, tokens: Sequence[Token]) -> Read:
        """Read a reply.

        Args:
            text: the whole reply.
            tokens: as it was sampled; empty where log-probs were not asked for or not given.

        Raises:
            BrokenReply: it has not this form; the same question may be asked again.
        """
        ...


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
        self, content: Sequence[Mapping[str, object]], question: JudgeForm[Answer], number: int, usage: JudgeUsage
    ) -> Answer:
        """Return the answer to a question; ratings are as given (0 to the question's highest).

        Args:
            content: images and words of the request.
            question: the form of its replies.
            number: of the pass; seeds differ by it.
            usage: the account that is charged, also where no answer comes.

        Raises:
            EvaluatorError: no answer after all attempts; the message has the last reason.
            ConfigError: the key or the model is refused.
        """
        reminder: list[Mapping[str, object]] = []
        numbers = count(number * self.settings.attempts)

        async def attempt() -> Answer:
            try:
                return await self._attempt([*content, *reminder], question, next(numbers), usage)
            except BrokenReply as fault:
                reason = str(fault)
                if len(reason) > _LONGEST_REASON:
                    reason = f"{reason[: _LONGEST_REASON - 3]}..."
                if question.schema() is not None:
                    reminder[:] = [{"type": "text", "text": _REMINDER.format(reason=reason)}]
                raise

        def wait(failed: int, fault: PassingFault) -> float:
            if isinstance(fault, BrokenReply):
                return 0.0
            return min(self.settings.max_wait, max(self.settings.first_wait * 2.0**failed, fault.wait))

        try:
            answer: Answer = await retrying(self.settings.attempts, PassingFault, wait, sleep=self._sleep)(attempt)
        except PassingFault as fault:
            reason = self._client.redact(str(fault))
            model, attempts = self.settings.model, self.settings.attempts
            raise EvaluatorError(
                f"the judge {model} gave no {question.wanted} in {attempts} attempts: {reason}"
            ) from fault
        return answer

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
        self, content: list[Mapping[str, object]], question: JudgeForm[Answer], seed: int, usage: JudgeUsage
    ) -> Answer:
        async with self._slots.get():
            if self._limiter is not None:
                await self._limiter.get().acquire()
            started = time.perf_counter()
            usage.requests += 1
            try:
                reply = await self._send(content, question, seed)
                # A name such as gpt-4.1 stands for versions that change: the server says which one answered.
                version = field_of(reply, "model")
                usage.note(str(version)[:_LONGEST_NAME] if version else "", datetime.now(UTC).date().isoformat())
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

    async def _send(self, content: list[Mapping[str, object]], question: JudgeForm[object], seed: int) -> object:
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

    def _options(self, question: JudgeForm[object], seed: int) -> dict[str, object]:
        settings = self.settings
        limit = "max_completion_tokens" if settings.base_url is None else "max_tokens"
        options: dict[str, object] = {
            "model": settings.model,
            "response_format": question.schema(),
            limit: settings.max_tokens,
            "temperature": settings.temperature,
            "seed": None if settings.seed is None else settings.seed + seed,
        }
        if self._wants_logprobs(question):
            options |= {"logprobs": True, "top_logprobs": settings.top_logprobs}
        return {name: value for name, value in options.items() if value is not None}

    def _wants_logprobs(self, question: JudgeForm[object]) -> bool:
        return self.settings.expected_score or question.needs_logprobs

    def _read(self, reply: object, question: JudgeForm[Answer]) -> Answer:
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
            limit = "the server's limit of" if self.settings.max_tokens is None else self.settings.max_tokens
            raise BrokenReply(f"the reply was cut off at {limit} tokens: raise max_tokens")
        tokens = read_tokens(field_of(choice, "logprobs")) if self._wants_logprobs(question) else []
        text = split_content(field_of(message, "content"))[1]
        if not text.strip():
            raise BrokenReply("the reply has no text: is this a chat model that sees images?")
        return question.read(text, tokens)
