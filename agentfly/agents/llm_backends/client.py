"""A policy behind an OpenAI-compatible chat endpoint, local or in the cloud.

Message-level, unless the server is vLLM and `ClientConfig.return_token_ids` is set: then turns are token-exact (see
`exact`). The client keeps to rate limits, retries temporary faults with backoff, and raises every failure as a
`BackendError` without the key in it. Tools are called natively. If a server does not support that, they are described
in the system message and the calls are read from the text.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from agentfly.agents.llm_backends.base import Generation, GenerationRequest, OnDelta
from agentfly.agents.llm_backends.client_errors import Faults, TransientError, backoff, refuses_tools
from agentfly.agents.llm_backends.configs import ClientConfig
from agentfly.agents.llm_backends.openai_format import Reply, image_urls, tools_as_text, wire_messages
from agentfly.agents.llm_backends.token_exact import TokenExact
from agentfly.aio import Clock, RateLimiter, Sleep, retrying
from agentfly.errors import BackendError
from agentfly.templates import ChatCodec

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

T = TypeVar("T")
# Reasoning models refuse these instead of ignoring them.
_OPTIONAL = ("temperature", "top_p", "seed")


class ClientBackend:
    """Generates through a chat-completions endpoint.

    May be used from one event loop after another (`asyncio.run` twice), not from two at once.

    Args:
        model: name of the model on the server.
        config: where the server is and how to treat it.
        template: name or path of the chat template that the server uses, for token-exact turns; None for the
            checkpoint's own.
        codec: a codec that exists already, for token-exact turns.
        clock: monotonic seconds, for the rate limit.
        sleep: waits for some seconds, between attempts and for the rate limit.

    Raises:
        TemplateError: token-exact turns are wanted, and the template is unknown or there is none.
    """

    def __init__(
        self,
        model: str,
        config: ClientConfig | None = None,
        *,
        template: str | None = None,
        codec: ChatCodec | None = None,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._model = model
        self._config = config or ClientConfig()
        self._exact: TokenExact | None = None
        if self._config.return_token_ids:
            codec = codec or ChatCodec.from_pretrained(self._config.checkpoint or model, template)
            self._exact = TokenExact(codec)
        self._faults = Faults(self._config)
        self._clock, self._sleep = clock, sleep
        self._sdk: openai.AsyncOpenAI | None = None
        self._limiter: RateLimiter | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._refused: set[str] = set()
        self._tools_as_text = self._config.tools_as_text

    @property
    def codec(self) -> ChatCodec | None:
        """None, unless the turns are token-exact: this backend sees messages."""
        return self._exact.codec if self._exact else None

    async def generate(self, request: GenerationRequest, on_delta: OnDelta | None = None) -> Generation:
        """Ask the server for one turn; with `on_delta` the text is streamed as it comes.

        A stream that breaks after its first delta is not tried again: the listener would hear the text twice.

        Raises:
            BackendError: no usable answer came, or one to another prompt than the rollout's.
        """
        urls = await image_urls(request)
        attempts = retrying(
            self._config.max_retries + 1, TransientError, backoff, sleep=self._sleep, log_level=logging.WARNING
        )
        reply: Reply = await attempts(self._attempt, request, urls, on_delta)
        return self._exact.generation(reply, request) if self._exact else reply.generation()

    async def close(self) -> None:
        """Close the connections."""
        sdk, loop, self._sdk = self._sdk, self._loop, None
        if sdk is not None and loop is asyncio.get_running_loop():
            await sdk.close()

    def _body(self, request: GenerationRequest, urls: Mapping[str, str]) -> dict[str, Any]:
        config, sampling = self._config, request.sampling
        body: dict[str, Any] = {
            "model": self._model,
            "max_completion_tokens": config.max_new_tokens or sampling.max_tokens,
            "temperature": sampling.temperature if config.temperature is None else config.temperature,
            "top_p": sampling.top_p,
            **({} if sampling.seed is None else {"seed": sampling.seed}),
        }
        extra = {**config.extra_body, **sampling.extra}
        native = bool(request.tools) and not self._tools_as_text
        if self._exact is not None:
            body["messages"] = self._exact.messages(request, urls)
            extra = self._exact.fields(request, extra)
        elif native or not request.tools:
            body["messages"] = wire_messages(request.messages, urls)
        else:
            body["messages"] = wire_messages(tools_as_text(request.messages, request.tools), urls)
        if native:
            body["tools"] = [dict(tool) for tool in request.tools]
        if extra:
            body["extra_body"] = extra
        return {name: value for name, value in body.items() if name not in self._refused}

    async def _attempt(self, request: GenerationRequest, urls: Mapping[str, str], on_delta: OnDelta | None) -> Reply:
        import openai

        while True:
            body, reply = self._body(request, urls), Reply()
            try:
                await self._send(body, request, reply, on_delta)
                return reply
            except openai.APIStatusError as fault:
                if not self._gives_way(fault, body):
                    raise self._faults.of(fault) from None
            except (TimeoutError, openai.OpenAIError, json.JSONDecodeError) as fault:
                error = self._faults.of(fault)
                # The listener has heard part of this answer already.
                raise BackendError(str(error), retryable=True) if reply.texts and on_delta else error from None

    def _gives_way(self, fault: openai.APIStatusError, body: Mapping[str, Any]) -> bool:
        """Whether the server refused something that can be left out; it is left out from now on."""
        parameter = fault.param
        if parameter in _OPTIONAL and parameter in body and str(fault.code).startswith("unsupported"):
            logger.warning("%s does not take %r; it is left out from now on", self._model, parameter)
            self._refused.add(parameter)
            return True
        forced = "tool_choice" in body.get("extra_body", {})
        if "tools" in body and not forced and refuses_tools(fault):
            told = self._faults.of(fault)
            logger.warning("%s; tools are described in the system message from now on", told)
            self._tools_as_text = True
            return True
        return False

    async def _send(
        self, body: Mapping[str, Any], request: GenerationRequest, reply: Reply, on_delta: OnDelta | None
    ) -> None:
        sdk = self._connect()
        if self._limiter is not None:
            await self._limiter.acquire()
        if on_delta is None:
            answer: Any = await asyncio.wait_for(sdk.chat.completions.create(**body), self._config.timeout)
            self._read(reply.read_answer, answer)
            self._check(reply, request)
            return
        stream: Any = await sdk.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
        async with stream:
            async for chunk in stream:
                text = self._read(reply.read_chunk, chunk)
                self._check(reply, request)
                if text:
                    await on_delta(text)
        if reply.finish is None:
            error = f"{self._config.base_url}: the stream ended before the answer did"
            raise BackendError(error, retryable=True) if reply.texts else TransientError(error)

    def _read(self, read: Callable[[Any], T], answer: Any) -> T:
        try:
            return read(answer)
        except (AttributeError, IndexError, TypeError):
            raise self._faults.malformed() from None

    def _check(self, reply: Reply, request: GenerationRequest) -> None:
        if self._exact is not None:
            self._exact.check(reply, request)

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
