"""Chat through LiteLLM: the client backend with another way to the server, so that retries and faults are the same.

LiteLLM's exceptions are subclasses of the OpenAI SDK's. Its replies are turned into the SDK's own objects, which have
every field that the client backend reads.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from agentfly.agents.llm_backends import ClientBackend, ClientConfig
from agentfly.agents.llm_backends.client_errors import Faults
from agentfly.errors import require


class LiteLLMBackend(ClientBackend):
    """Generates through LiteLLM.

    Args:
        model: id of the model as its vendor knows it, without the vendor.
        config: limits and key; its `base_url` names the vendor in messages where `api_base` is None.
        vendor: as LiteLLM calls it; "openai" for any OpenAI-compatible endpoint.
        api_base: the endpoint; None is the vendor's own.

    Raises:
        MissingExtraError: litellm is not installed.
    """

    def __init__(self, model: str, config: ClientConfig, *, vendor: str, api_base: str | None) -> None:
        require("litellm", "chat through LiteLLM", "litellm")
        super().__init__(model, config)
        self._faults = Faults(config, f"{vendor.upper()}_API_KEY")
        key = config.api_key
        self._fixed: dict[str, Any] = {
            "custom_llm_provider": vendor,
            "api_base": api_base,
            "api_key": key.get_secret_value() if key else ("EMPTY" if api_base else None),
            "timeout": config.timeout,
            # The client backend tries again itself, and leaves out what a server refuses.
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": True,
        }

    def _connect(self) -> Any:
        return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=self._create)))

    async def _create(self, **body: Any) -> Any:
        from openai.types.chat import ChatCompletion

        litellm: Any = importlib.import_module("litellm")
        # It would print advice to standard output with every fault.
        litellm.suppress_debug_info = True
        reply = await litellm.acompletion(**body, **self._fixed)
        return _Stream(reply) if body.get("stream") else ChatCompletion.construct(**reply.model_dump())


class _Stream:
    """A streamed reply of LiteLLM as the SDK's stream: a context of chunks."""

    def __init__(self, chunks: AsyncIterator[Any]) -> None:
        self._chunks = chunks

    async def __aenter__(self) -> _Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()

    async def __aiter__(self) -> AsyncIterator[Any]:
        from openai.types.chat import ChatCompletionChunk

        async for chunk in self._chunks:
            yield ChatCompletionChunk.construct(**chunk.model_dump())
