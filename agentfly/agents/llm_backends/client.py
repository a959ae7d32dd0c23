"""A policy behind an OpenAI-compatible chat endpoint, local or in the cloud.

Message-level: `codec` is None and generations carry no token ids. Rate limits are kept on this side, passing faults are
tried again with backoff, and every failure is a `BackendError` without the key in it.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentfly.agents.llm_backends.base import Generation, GenerationRequest, OnDelta
from agentfly.agents.llm_backends.configs import ClientConfig
from agentfly.agents.llm_backends.rate_limit import Clock, RateLimiter, Sleep
from agentfly.agents.llm_backends.wire import Reply, image_urls, wire_messages
from agentfly.errors import BackendError

if TYPE_CHECKING:
    import openai
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)

# Reasoning models refuse these instead of ignoring them.
_OPTIONAL = ("temperature", "top_p", "seed")
_LONGEST_WAIT = 120.0
_ADVICE = {
    401: "; check api_key, or set OPENAI_API_KEY",
    403: "; check that api_key may use this model",
    404: "; check the model name, and that base_url ends in /v1",
}


class _Transient(BackendError):
    """A fault that is worth another attempt; `wait` is what the server asked for, in seconds."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message, retryable=True)
        self.wait = wait


class ClientBackend:
    """Generates through a chat-completions endpoint.

    May be used from one event loop after another (`asyncio.run` twice), not from two at once.

    Args:
        model: name of the model on the server.
        config: where the server is and how to treat it.
        clock: monotonic seconds, for the rate limit.
        sleep: waits for some seconds, between attempts and for the rate limit.
    """

    def __init__(
        self,
        model: str,
        config: ClientConfig | None = None,
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._model = model
        self._config = config or ClientConfig()
        self._clock, self._sleep = clock, sleep
        self._sdk: openai.AsyncOpenAI | None = None
        self._limiter: RateLimiter | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._refused: set[str] = set()

    @property
    def codec(self) -> None:
        """None: this backend sees messages, not tokens."""
        return None

    async def generate(self, request: GenerationRequest, on_delta: OnDelta | None = None) -> Generation:
        """Ask the server for one turn; with `on_delta` the text is streamed as it comes.

        A stream that breaks after its first delta is not tried again: the listener would hear the text twice.

        Raises:
            BackendError: no usable answer came.
        """
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

        body = await self._body(request)
        retrying = AsyncRetrying(
            sleep=self._sleep,  # type: ignore[arg-type]
            stop=stop_after_attempt(self._config.max_retries + 1),
            wait=_wait,
            retry=retry_if_exception_type(_Transient),
            before_sleep=_log_retry,
            reraise=True,
        )
        reply: Reply = await retrying(self._attempt, body, on_delta)
        return reply.generation()

    async def close(self) -> None:
        """Close the connections."""
        sdk, loop, self._sdk = self._sdk, self._loop, None
        if sdk is not None and loop is asyncio.get_running_loop():
            await sdk.close()

    async def _body(self, request: GenerationRequest) -> dict[str, Any]:
        config, sampling = self._config, request.sampling
        body: dict[str, Any] = {
            "model": self._model,
            "messages": wire_messages(request.messages, await image_urls(request)),
            "max_completion_tokens": config.max_new_tokens or sampling.max_tokens,
            "temperature": sampling.temperature if config.temperature is None else config.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if request.tools:
            body["tools"] = [dict(tool) for tool in request.tools]
        extra = {**config.extra_body, **sampling.extra}
        if extra:
            body["extra_body"] = extra
        return body

    async def _attempt(self, body: dict[str, Any], on_delta: OnDelta | None) -> Reply:
        import openai

        while True:
            sent = {name: value for name, value in body.items() if name not in self._refused}
            reply = Reply()
            try:
                await self._send(sent, reply, on_delta)
                return reply
            except openai.BadRequestError as fault:
                unsupported = str(fault.code).startswith("unsupported") and fault.param in _OPTIONAL
                if not unsupported or fault.param not in sent:
                    raise self._fault(fault) from None
                logger.warning("%s does not take %r; it is left out from now on", self._model, fault.param)
                self._refused.add(fault.param)
            except (openai.OpenAIError, asyncio.TimeoutError, json.JSONDecodeError) as fault:
                error = self._fault(fault)
                # The listener has heard part of this answer already.
                raise BackendError(str(error), retryable=True) if reply.texts and on_delta else error from None

    async def _send(self, body: dict[str, Any], reply: Reply, on_delta: OnDelta | None) -> None:
        sdk = self._connect()
        if self._limiter is not None:
            await self._limiter.acquire()
        if on_delta is None:
            answer: Any = await asyncio.wait_for(sdk.chat.completions.create(**body), self._config.timeout)
            self._read_answer(answer, reply)
            return
        stream: Any = await sdk.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
        async with stream:
            async for chunk in stream:
                await self._read_chunk(chunk, reply, on_delta)
        if reply.finish is None:
            error = f"{self._config.base_url}: the stream ended before the answer did"
            raise BackendError(error, retryable=True) if reply.texts else _Transient(error)

    def _read_answer(self, answer: Any, reply: Reply) -> None:
        try:
            choice = answer.choices[0]
            reply.texts.append(choice.message.content or choice.message.refusal or "")
            for index, call in enumerate(choice.message.tool_calls or ()):
                reply.add_call(index, call)
            reply.finish, reply.usage = choice.finish_reason, answer.usage
        except (AttributeError, IndexError, TypeError):
            raise self._malformed() from None

    async def _read_chunk(self, chunk: Any, reply: Reply, on_delta: OnDelta) -> None:
        text = ""
        try:
            reply.usage = chunk.usage or reply.usage
            for choice in (chunk.choices or ())[:1]:
                text = choice.delta.content or choice.delta.refusal or ""
                for fragment in choice.delta.tool_calls or ():
                    reply.add_call(fragment.index or 0, fragment)
                reply.finish = choice.finish_reason or reply.finish
        except (AttributeError, TypeError):
            raise self._malformed() from None
        if text:
            reply.texts.append(text)
            await on_delta(text)

    def _connect(self) -> openai.AsyncOpenAI:
        loop = asyncio.get_running_loop()
        if self._sdk is None or self._loop is not loop:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient

            key = self._config.api_key
            self._loop = loop
            self._sdk = AsyncOpenAI(
                # 0.0.0.0 is where a server listens; it is no address to call, least of all through a proxy.
                base_url=self._config.base_url.replace("://0.0.0.0", "://127.0.0.1"),
                # The SDK insists on a key, local servers ignore it.
                api_key=key.get_secret_value() if key else "EMPTY",
                timeout=self._config.timeout,
                max_retries=0,
                # The SDK's own would try to close the sockets of a loop that is gone, and log that it cannot.
                http_client=DefaultAsyncHttpxClient(timeout=self._config.timeout),
            )
            if self._config.max_requests_per_minute is not None:
                limit = self._config.max_requests_per_minute
                self._limiter = RateLimiter(limit, clock=self._clock, sleep=self._sleep)
        return self._sdk

    def _malformed(self) -> BackendError:
        return BackendError(f"{self._config.base_url} sent no chat completion; check that base_url ends in /v1")

    def _fault(self, fault: Exception) -> BackendError:
        import openai

        url = self._config.base_url
        if isinstance(fault, openai.APITimeoutError | asyncio.TimeoutError):
            return _Transient(f"{url} did not answer within {self._config.timeout:g} s; raise ClientConfig.timeout")
        if isinstance(fault, openai.APIConnectionError):
            cause = self._redact(fault.__cause__ or fault)
            return _Transient(f"cannot reach {url} ({cause}); check base_url, and that the server runs")
        if isinstance(fault, openai.APIStatusError):
            return self._status_fault(fault)
        if isinstance(fault, openai.APIResponseValidationError | json.JSONDecodeError):
            return self._malformed()
        return _Transient(f"{url} reported: {self._redact(fault)}")

    def _status_fault(self, fault: openai.APIStatusError) -> BackendError:
        status = fault.status_code
        message = f"{self._config.base_url} answered {status}: {self._redact(fault)}{_ADVICE.get(status, '')}"
        if not (status in (408, 429) or status >= 500) or fault.code == "insufficient_quota":
            return BackendError(message)
        wait = _retry_after(fault.response.headers)
        if wait is not None and wait > _LONGEST_WAIT:
            return BackendError(f"{message} (and asks to wait {wait:.0f} s)", retryable=True)
        return _Transient(message, wait)

    def _redact(self, fault: BaseException) -> str:
        text = str(fault)
        key = self._config.api_key
        if key is not None and key.get_secret_value():
            text = text.replace(key.get_secret_value(), "***")
        return text[:500]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        date = email.utils.parsedate_tz(value)
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())


def _wait(state: RetryCallState) -> float:
    fault = state.outcome.exception() if state.outcome else None
    if isinstance(fault, _Transient) and fault.wait is not None:
        # Chains that were refused together must not come back together.
        return fault.wait * random.uniform(1.0, 1.1)
    return min(30.0, 0.5 * 2.0 ** (state.attempt_number - 1)) * random.uniform(0.5, 1.0)


def _log_retry(state: RetryCallState) -> None:
    fault = state.outcome.exception() if state.outcome else None
    logger.warning("attempt %d failed: %s; trying again", state.attempt_number, fault)
