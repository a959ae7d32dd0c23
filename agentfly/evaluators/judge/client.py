"""Ask the judge one question: retries, broken replies, servers that lack a feature, and the usage of all requests."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentfly.aio import LoopLocal, RateLimiter
from agentfly.errors import ConfigError, EvaluatorError, ToolError, first_line
from agentfly.evaluators.guarded import PassingFault, Sleep
from agentfly.evaluators.judge.logprobs import Token, expected_rating
from agentfly.evaluators.judge.replies import BrokenReply, Ratings, read_reply
from agentfly.evaluators.judge.schemes import Question
from agentfly.evaluators.judge.settings import JudgeSettings, JudgeUsage
from agentfly.openai_client import Endpoint, SdkClient

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

# What a server may not know, and the words by which it says so. Without them a request is as good, or nearly.
_OPTIONAL = {
    "response_format": ("response_format", "json_schema", "guided", "structured"),
    "logprobs": ("logprobs",),
    "temperature": ("temperature",),
    "seed": ("seed",),
}
_REMINDER = "Your last reply was not usable: {reason}. Answer with the JSON object only."
_REFUSALS = ("content_filter", "content_policy", "moderation")


class JudgeClient:
    """Asks questions of a chat endpoint.

    Args:
        settings: where, how and within what bounds.
        client: an OpenAI client to use instead of one made from the settings.
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
        # What this server has refused: not sent to it again.
        self._refused: set[str] = set()

    async def ask(self, content: Sequence[Any], question: Question, number: int, usage: JudgeUsage) -> Ratings:
        """Ratings for a question, as given (0 to its highest).

        Args:
            content: images and words of the request.
            question: what is asked.
            number: of the pass; seeds differ by it.
            usage: the account that gets what this takes, also where it fails.

        Raises:
            EvaluatorError: no ratings after all attempts; the message has the last reason.
            ConfigError: the key or the model is refused.
        """
        messages: list[Any] = [{"role": "user", "content": list(content)}]
        reason: EvaluatorError | None = None
        for attempt in range(self.settings.attempts):
            try:
                return await self._try(messages, question, number * self.settings.attempts + attempt, usage)
            except BrokenReply as fault:
                reason = fault
                reminder = {"type": "text", "text": _REMINDER.format(reason=_short(fault))}
                messages = [{"role": "user", "content": [*content, reminder]}]
            except _Wait as fault:
                reason = fault
                backoff = self.settings.first_wait * 2.0**attempt
                if attempt + 1 < self.settings.attempts:
                    await self._sleep(min(self.settings.max_wait, max(backoff, fault.seconds)))
            logger.debug("judge %s, attempt %d: %s", self.settings.model, attempt + 1, reason)
        raise EvaluatorError(
            f"the judge {self.settings.model} gave no ratings in {self.settings.attempts} attempts: {reason}"
        ) from reason

    async def check_ready(self) -> None:
        """Find out, without cost, whether the endpoint answers and serves the model.

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

    async def _try(self, messages: list[Any], question: Question, seed: int, usage: JudgeUsage) -> Ratings:
        async with self._slots.get():
            if self._limiter is not None:
                await self._limiter.get().acquire()
            started = time.perf_counter()
            usage.requests += 1
            try:
                reply = await self._send(messages, question, seed)
                self._account(reply, usage)
                return self._read(reply, question)
            except BaseException:
                usage.failed += 1
                raise
            finally:
                usage.seconds += time.perf_counter() - started

    async def _send(self, messages: list[Any], question: Question, seed: int) -> Any:
        """The server's reply; what it does not know is left out from then on."""
        import openai

        create = self._client.get().chat.completions.create
        while True:
            options = self._options(question, seed)
            try:
                return await asyncio.wait_for(
                    create(model=self.settings.model, messages=messages, **options), self.settings.timeout
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as fault:
                self._give_up_option(fault, options)
            except (TimeoutError, openai.APITimeoutError):
                raise _Wait(f"no answer within {self.settings.timeout:g} s") from None
            except openai.OpenAIError as fault:
                raise _translated(fault, self.settings.model) from None
            except json.JSONDecodeError as fault:
                # The SDK lets the fault of a body that is no JSON through as it is.
                raise _Wait(f"the server's reply is no JSON ({first_line(fault)})") from None

    def _options(self, question: Question, seed: int) -> dict[str, Any]:
        settings = self.settings
        wanted: dict[str, Any] = {"response_format": question.schema()}
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

    def _give_up_option(self, fault: openai.APIStatusError, options: dict[str, Any]) -> None:
        """Leave out what the server does not know.

        Raises:
            BrokenReply: the server's filter refuses the content.
            EvaluatorError: the request is refused for another reason.
        """
        words = f"{fault.message} {fault.code or ''} {fault.param or ''}".lower()
        if any(mark in words for mark in _REFUSALS):
            raise BrokenReply(f"the server refused to judge ({first_line(fault)})") from None
        for name, marks in _OPTIONAL.items():
            if name in options and any(mark in words for mark in marks):
                logger.warning("judge %s: the server refuses %s, going on without", self.settings.model, name)
                self._refused.add(name)
                return
        raise EvaluatorError(f"the judge {self.settings.model} refuses this request: {first_line(fault)}") from None

    def _account(self, reply: Any, usage: JudgeUsage) -> None:
        counted = getattr(reply, "usage", None)
        if counted is None:
            return
        prompt, completion = int(counted.prompt_tokens or 0), int(counted.completion_tokens or 0)
        usage.prompt_tokens += prompt
        usage.completion_tokens += completion
        usage.cost += (prompt * self.settings.input_price + completion * self.settings.output_price) / 1e6

    def _read(self, reply: Any, question: Question) -> Ratings:
        choices = getattr(reply, "choices", None)
        if not choices or choices[0].message is None:
            raise BrokenReply("the reply has no choices")
        choice = choices[0]
        if getattr(choice.message, "refusal", None) or choice.finish_reason == "content_filter":
            raise BrokenReply("the judge refused to answer")
        if choice.finish_reason == "length":
            raise BrokenReply(f"the reply was cut off at {self.settings.max_tokens} tokens: raise max_tokens")
        ratings = read_reply(choice.message.content or "", question)
        tokens = _tokens(choice) if self.settings.expected_score else []
        means = {name: expected_rating(tokens, name, question.highest) for name in ratings.values}
        values = {name: value if means[name] is None else means[name] for name, value in ratings.values.items()}
        return Ratings({name: float(value or 0.0) for name, value in values.items()}, ratings.feedback)


class _Wait(PassingFault):
    """A fault that may pass, and how many seconds the server asks to wait."""

    def __init__(self, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


def _translated(fault: openai.OpenAIError, model: str) -> Exception:
    """Our fault for the SDK's; no message carries the key."""
    import openai

    if isinstance(fault, (openai.AuthenticationError, openai.PermissionDeniedError)):
        return ConfigError(f"the judge {model} refuses the key (HTTP {fault.status_code}): check api_key_env")
    if isinstance(fault, openai.NotFoundError):
        return ConfigError(
            f"the judge {model} is not served there ({first_line(fault)}): check model and base_url, which ends in /v1"
        )
    if (
        isinstance(fault, openai.APIStatusError)
        and fault.status_code < 500
        and fault.status_code not in (408, 409, 429)
    ):
        return EvaluatorError(f"the judge {model} refuses this request: {first_line(fault)}")
    seconds = 0.0
    if isinstance(fault, openai.APIStatusError):
        try:
            seconds = float(fault.response.headers.get("retry-after", "0"))
        except ValueError:
            seconds = 0.0
    return _Wait(f"{type(fault).__name__}: {first_line(fault)}", seconds)


def _tokens(choice: Any) -> list[Token]:
    """Sampled tokens with their alternatives; empty where the server gives none."""
    content = getattr(choice.logprobs, "content", None) or []
    return [
        Token(
            entry.token,
            tuple({entry.token: entry.logprob, **{a.token: a.logprob for a in entry.top_logprobs or ()}}.items()),
        )
        for entry in content
    ]


def _short(fault: Exception) -> str:
    text = str(fault)
    return text if len(text) <= 200 else f"{text[:197]}..."
