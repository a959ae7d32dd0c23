"""Models of the text agents: they take messages and yield pieces of text as they are generated.

`<think>` text is passed on like any other. The backend retries temporary faults until the first piece has come.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import NoReturn
from uuid import uuid4

from pydantic import SecretStr

from agentfly.agents.llm_backends import (
    ClientBackend,
    ClientConfig,
    Generation,
    GenerationRequest,
    LLMBackend,
    SamplingParams,
)
from agentfly.errors import ConfigError
from agentfly.messages import from_openai

logger = logging.getLogger(__name__)

ChatMessage = Mapping[str, object]
_SAMPLING = ("temperature", "top_p", "max_tokens", "seed")


class BaseModel(ABC):
    """A model that answers chat messages with text. To use another kind of API, subclass it and write `call_stream`.

    Attributes:
        restarts: further requests for an answer that broke off before its beginning was handed on.
    """

    restarts: int = 2

    @abstractmethod
    def call_stream(self, messages: Sequence[ChatMessage], **kwargs: object) -> AsyncGenerator[str, None]:
        """Yield the pieces of the answer as they are generated.

        Args:
            messages: `role` and `content` of each, as in OpenAI's chat API.
            kwargs: `temperature`, `top_p`, `max_tokens` and `seed` of this call; anything else goes into the request.

        Raises:
            BackendError: no answer came, or it broke off; `retryable` where another attempt may help.
            ConfigError: a message has not that form.
        """

    async def close_client(self) -> None:  # noqa: B027
        """Close the connections, if the model has any. Safe to call twice; the default does nothing."""


class BackendModel(BaseModel):
    """A model on any LLM backend of this package.

    Args:
        backend: generates the text.
        max_tokens: tokens of an answer at most, unless a call sets its own limit.
        temperature: of calls without their own; 0 is greedy.
    """

    def __init__(self, backend: LLMBackend, *, max_tokens: int = 4096, temperature: float = 0.7) -> None:
        self.backend = backend
        self.sampling = SamplingParams(temperature=temperature, max_tokens=max_tokens)

    async def call_stream(self, messages: Sequence[ChatMessage], **kwargs: object) -> AsyncGenerator[str, None]:
        """Yield pieces of the answer as they come; see `BaseModel`. Leaving the loop early ends the request."""
        request = self._request(messages, kwargs)
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        async def work() -> Generation:
            try:
                return await self.backend.generate(request, pieces.put)
            finally:
                pieces.put_nowait(None)

        task, heard = asyncio.create_task(work()), False
        try:
            while (piece := await pieces.get()) is not None:
                heard = True
                yield piece
            generation = await task
            # A backend need not stream.
            if generation.text and not heard:
                yield generation.text
            if generation.finish_reason == "length":
                limit = request.sampling.max_tokens
                logger.warning("the answer was cut off at max_tokens=%d: raise it if the end is missing", limit)
            elif generation.finish_reason == "abort":
                logger.warning("the server ended the answer early (content filter or abort)")
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()

    async def close_client(self) -> None:
        """Free the connections of the backend."""
        await self.backend.close()

    def _request(self, messages: Sequence[ChatMessage], options: Mapping[str, object]) -> GenerationRequest:
        read = tuple(from_openai(message, _no_image) for message in messages)
        given = {name: value for name, value in options.items() if value is not None}
        known = {name: given.pop(name) for name in _SAMPLING if name in given}
        defaults = {name: getattr(self.sampling, name) for name in _SAMPLING}
        sampling = SamplingParams(**{**defaults, **known}, extra=given)
        codec, name = self.backend.codec, uuid4().hex
        ids = () if codec is None else codec.prompt_ids(read, (), _no_image)
        return GenerationRequest(name, name, read, (), sampling, prompt_ids=ids)


class VLLMModel(BackendModel):
    """A model behind an OpenAI-compatible chat endpoint, vLLM's or another.

    Args:
        model_name: its name on the server.
        api_url: address up to `/v1`.
        api_key: None for a server that needs none.
        max_tokens, temperature: of calls without their own.
        timeout: seconds to the first piece, and between two pieces.
        max_retries: further attempts after a rate limit, a server fault, a time-out or a lost connection; also further
            requests for an answer that broke off before its beginning was handed on.
        max_requests_per_minute: None for no limit.
        extra_body: further fields of every request, e.g. {"top_k": 20}.
        key_variable: environment variable with the key, for messages.

    Raises:
        ConfigError: an argument is wrong.
    """

    def __init__(
        self,
        model_name: str,
        api_url: str,
        api_key: str | None = None,
        *,
        max_tokens: int = 4096,
        temperature: float = 0.7,
        timeout: float = 600.0,
        max_retries: int = 4,
        max_requests_per_minute: int | None = None,
        extra_body: Mapping[str, object] | None = None,
        key_variable: str = "OPENAI_API_KEY",
    ) -> None:
        config = ClientConfig(
            base_url=api_url.rstrip("/").removesuffix("/chat/completions"),
            api_key=SecretStr(api_key) if api_key else None,
            timeout=timeout,
            max_retries=max_retries,
            max_requests_per_minute=max_requests_per_minute,
            extra_body=extra_body or {},
        )
        backend = ClientBackend(model_name, config, key_variable=key_variable)
        super().__init__(backend, max_tokens=max_tokens, temperature=temperature)
        self.model_name = model_name
        self.restarts = max_retries


def as_model(model: BaseModel | LLMBackend) -> BaseModel:
    """Return a model as it is, and a backend as a model."""
    return model if isinstance(model, BaseModel) else BackendModel(model)


def _no_image(_: object) -> NoReturn:
    raise ConfigError("text agents take text: leave the images out, or use agentfly.agents.ImageEditingAgent")
