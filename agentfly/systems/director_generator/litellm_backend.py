"""Chat through LiteLLM: the client backend with another connection, so that retries and errors are the same.

LiteLLM's exceptions are subclasses of the OpenAI SDK's. Its replies are turned into the SDK's own objects, which have
every field that the client backend reads.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from agentfly.agents.llm_backends import ClientBackend, ClientConfig
from agentfly.agents.llm_backends.client_errors import Faults
from agentfly.errors import require

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletion, ChatCompletionChunk


class LiteLLMBackend(ClientBackend):
    """A chat backend that goes through LiteLLM.

    Args:
        model: the vendor's id of the model, without the vendor's name.
        config: limits and key; its `base_url` names the vendor in messages where `api_base` is None.
        vendor: LiteLLM's name of the vendor; "openai" for any OpenAI-compatible endpoint.
        api_base: the endpoint; None for the vendor's own.

    Raises:
        MissingExtraError: litellm is not installed.
    """

    def __init__(self, model: str, config: ClientConfig, *, vendor: str, api_base: str | None) -> None:
        require("litellm", "chat through LiteLLM", "litellm")
        super().__init__(model, config)
        self._faults = Faults(config, f"{vendor.upper()}_API_KEY")
        key = config.api_key
        self._fixed: dict[str, object] = {
            "custom_llm_provider": vendor,
            "api_base": api_base,
            "api_key": key.get_secret_value() if key else ("EMPTY" if api_base else None),
            "timeout": config.timeout,
            # The client backend itself retries and leaves out the fields that a server refuses.
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": True,
        }

    def _connect(self) -> openai.AsyncOpenAI:
        client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=self._create)))
        return cast("openai.AsyncOpenAI", client)

    async def _create(self, **body: object) -> ChatCompletion | _Stream:
        from openai.types.chat import ChatCompletion

        litellm: Any = importlib.import_module("litellm")
        # It would print advice to standard output with every error.
        litellm.suppress_debug_info = True
        reply = await litellm.acompletion(**body, **self._fixed)
        return _Stream(reply) if body.get("stream") else ChatCompletion.construct(**reply.model_dump())


class _Stream:
    """A streamed reply of LiteLLM in the form of the SDK's stream: a context manager that yields chunks."""

    def __init__(self, chunks: AsyncIterator[BaseModel]) -> None:
        self._chunks = chunks

    async def __aenter__(self) -> _Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()

    async def __aiter__(self) -> AsyncIterator[ChatCompletionChunk]:
        from openai.types.chat import ChatCompletionChunk

        async for chunk in self._chunks:
            yield ChatCompletionChunk.construct(**chunk.model_dump())
