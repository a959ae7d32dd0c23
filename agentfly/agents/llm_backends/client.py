"""A policy behind an OpenAI-compatible chat endpoint, local or in the cloud.

Turns are message-level, unless the server is vLLM and `ClientConfig.return_token_ids` is set: then they are token-exact
(see `token_exact`). The client keeps to rate limits, retries temporary faults with backoff, and raises every failure as
a `BackendError` without the key in it. Tools are called natively. If a server does not support that, they are described
in the system message and the calls are read from the text.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from pydantic import SecretStr

from agentfly.agents.llm_backends.base import Generation, GenerationRequest, OnDelta
from agentfly.agents.llm_backends.client_errors import Faults, TransientError, backoff, refuses_tools
from agentfly.agents.llm_backends.configs import ClientConfig
from agentfly.agents.llm_backends.openai_format import Reply, image_urls, tools_as_text, wire_messages
from agentfly.agents.llm_backends.token_exact import TokenExact
from agentfly.aio import Clock, LoopLocal, RateLimiter, Sleep, retrying
from agentfly.errors import BackendError
from agentfly.images import DataUris
from agentfly.openai_client import Endpoint, SdkClient, is_fault
from agentfly.openai_compat import Fallbacks, check_answer
from agentfly.openai_requests import create_of
from agentfly.templates import ChatCodec

if TYPE_CHECKING:
    import openai
    from openai import AsyncStream
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

logger = logging.getLogger(__name__)

A = TypeVar("A")
T = TypeVar("T")


class ClientBackend:
    """Generates through a chat-completions endpoint.

    May be used from one event loop after another (`asyncio.run` twice), not from two at once.

    Args:
        model: name of the model on the server.
        config: address, key, limits and sampling.
        template: name or path of the chat template that the server uses, for token-exact turns; None for the
            checkpoint's own.
        codec: a codec that exists already, for token-exact turns.
        key_variable: environment variable with the key, for messages.
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
        key_variable: str = "OPENAI_API_KEY",
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._model = model
        self._config = config or ClientConfig()
        self._exact: TokenExact | None = None
        if self._config.return_token_ids:
            codec = codec or ChatCodec.from_pretrained(self._config.checkpoint or model, template)
            self._exact = TokenExact(codec)
        self._faults = Faults(self._config, key_variable)
        self._sleep = sleep
        self._client = SdkClient(
            Endpoint(
                # 0.0.0.0 is where a server listens; it is no address to call, least of all through a proxy.
                base_url=self._config.base_url.replace("://0.0.0.0", "://127.0.0.1"),
                # The SDK insists on a key, local servers ignore it.
                api_key=self._config.api_key or SecretStr("EMPTY"),
                timeout=self._config.timeout,
                retries=0,
            )
        )
        limit = self._config.max_requests_per_minute
        self._limiter = None if limit is None else LoopLocal(lambda: RateLimiter(limit, clock=clock, sleep=sleep))
        self._fallbacks = Fallbacks(model)
        self._uris = DataUris()
        self._tools_as_text = self._config.tools_as_text

    @property
    def codec(self) -> ChatCodec | None:
        """None, unless the turns are token-exact: this backend sees messages."""
        return self._exact.codec if self._exact else None

    async def generate(self, request: GenerationRequest, on_delta: OnDelta | None = None) -> Generation:
        """Ask the server for one turn.

        A stream that breaks after its first delta is not tried again: the listener would hear the text twice.

        Args:
            request: the conversation and the sampling.
            on_delta: listens to the text as the server streams it; without it the answer comes whole.

        Raises:
            BackendError: no usable answer came, or one to another prompt than the rollout's.
        """
        urls = await image_urls(request, self._uris)
        attempts = retrying(
            self._config.max_retries + 1, TransientError, backoff, sleep=self._sleep, log_level=logging.WARNING
        )
        reply: Reply = await attempts(self._attempt, request, urls, on_delta)
        return self._exact.generation(reply, request) if self._exact else reply.generation()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _attempt(self, request: GenerationRequest, urls: Mapping[str, str], on_delta: OnDelta | None) -> Reply:
        import openai

        while True:
            body, reply = self._body(request, urls), Reply()
            if on_delta is not None:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
            body = self._fallbacks.adapt(body)
            try:
                await self._send(body, request, reply, on_delta)
                return reply
            except Exception as fault:
                if not is_fault(fault):
                    raise
                error = self._faults.of(fault)
                if reply.texts and on_delta:
                    # The listener has heard part of this answer already.
                    raise BackendError(str(error), retryable=True) from None
                if not (isinstance(fault, openai.APIError) and self._leaves_out(fault, body, str(error))):
                    raise error from None

    def _body(self, request: GenerationRequest, urls: Mapping[str, str]) -> dict[str, object]:
        config, sampling = self._config, request.sampling
        extra = {**config.extra_body, **sampling.extra}
        body: dict[str, object] = {
            "model": self._model,
            "temperature": sampling.temperature if config.temperature is None else config.temperature,
        }
        # Some servers refuse a top_p of 1, or any beside a temperature. A vLLM server would take the default of its
        # checkpoint without it, which is not the distribution that a token-exact rollout is trained on.
        if sampling.top_p != 1 or self._exact is not None:
            body["top_p"] = sampling.top_p
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if "max_tokens" not in extra:
            body["max_completion_tokens"] = config.max_new_tokens or sampling.max_tokens
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
        return body

    def _leaves_out(self, fault: openai.APIError, body: Mapping[str, object], reason: str) -> bool:
        """Return True if the server refuses a field that can be left out or renamed, as it then is from now on."""
        if self._fallbacks.learn(fault, body, reason):
            return True
        extra = body.get("extra_body")
        forced = isinstance(extra, dict) and "tool_choice" in extra
        if "tools" in body and not forced and refuses_tools(fault):
            logger.warning("%s; tools are described in the system message from now on", reason)
            self._tools_as_text = True
            return True
        return False

    async def _send(
        self, body: Mapping[str, object], request: GenerationRequest, reply: Reply, on_delta: OnDelta | None
    ) -> None:
        """Send one request and read its answer into `reply`."""
        create = create_of(self._connect())
        if self._limiter is not None:
            await self._limiter.get().acquire()
        if on_delta is None:
            self._read_whole(await asyncio.wait_for(create(**body), self._config.timeout), reply)
            self._check_prompt(reply, request)
        else:
            async with await create(**body) as stream:
                await self._hear(stream, request, reply, on_delta)
        if reply.finish is None and on_delta is not None:
            problem = "the stream ended before the answer did"
        elif reply.failed:
            problem = f"the server broke off (finish_reason {reply.finish!r})"
        else:
            return
        # The policy had no part in that. What a listener has heard is not said again.
        error = f"{self._faults.url}: {problem}"
        raise BackendError(error, retryable=True) if reply.texts and on_delta else TransientError(error)

    async def _hear(
        self, stream: AsyncStream[ChatCompletionChunk], request: GenerationRequest, reply: Reply, on_delta: OnDelta
    ) -> None:
        """Read a stream into `reply` and pass its text on as it comes."""
        if "text/html" in _content_type(stream):
            raise self._faults.malformed()  # the page of a website or of a login
        whole = await _read_unstreamed(stream)
        if whole is not None:
            self._read_whole(whole, reply)
            self._check_prompt(reply, request)
            for text in reply.texts:
                await on_delta(text)
            return
        async for chunk in stream:
            check_answer(chunk)
            text = self._read(reply.read_chunk, chunk)
            self._check_prompt(reply, request)
            if text:
                await on_delta(text)

    def _read_whole(self, answer: ChatCompletion, reply: Reply) -> None:
        check_answer(answer)
        self._read(reply.read_answer, answer)

    def _read(self, read: Callable[[A], T], answer: A) -> T:
        """Return what `read` finds in an answer, whose JSON need not have the form of a completion."""
        try:
            return read(answer)
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
            raise self._faults.malformed() from None

    def _check_prompt(self, reply: Reply, request: GenerationRequest) -> None:
        if self._exact is not None:
            self._exact.check(reply, request)

    def _connect(self) -> openai.AsyncOpenAI:
        """Return the SDK's client; backends with another way to the server override this."""
        return self._client.get()


def _content_type(stream: AsyncStream[ChatCompletionChunk]) -> str:
    # A backend of another library has a stream without a response.
    response = getattr(stream, "response", None)
    return "" if response is None else response.headers.get("content-type", "")


async def _read_unstreamed(stream: AsyncStream[ChatCompletionChunk]) -> ChatCompletion | None:
    """Return the answer of a server that sends it whole although a stream was asked for, as many do with errors."""
    if "application/json" not in _content_type(stream):
        return None
    import openai
    from openai.types.chat import ChatCompletion

    try:
        body = (await stream.response.aread()).lstrip()
    except Exception as fault:  # the errors of the SDK's transport, which it translates only where it reads itself
        raise openai.APIConnectionError(request=stream.response.request) from fault
    if not body.startswith((b"{", b"[")):
        return None  # a stream under the wrong name, which can be read all the same
    fields = json.loads(body)
    return ChatCompletion.construct(**(fields if isinstance(fields, dict) else {"choices": fields}))
