"""From the documented `backend=` argument to a backend object."""

from __future__ import annotations

from typing import Any

from agentfly.agents.llm_backends.base import LLMBackend
from agentfly.agents.llm_backends.configs import AsyncVLLMConfig, ClientConfig
from agentfly.errors import ConfigError, unknown_name

_CONFIGS = {"async_vllm": AsyncVLLMConfig, "client": ClientConfig}


def make_backend(backend: str | LLMBackend, model: str, template: str | None, config: Any) -> LLMBackend:
    """The backend of a name and its configuration; a backend object is passed through.

    Args:
        backend: "async_vllm", "client", or a backend.
        model: checkpoint or model name.
        template: chat template of a token-level backend.
        config: configuration object, a dict of its fields, or None for the defaults.

    Raises:
        ConfigError: unknown backend, or a configuration of another backend.
    """
    if not isinstance(backend, str):
        return backend
    if backend not in _CONFIGS:
        raise ConfigError(unknown_name("backend", backend, _CONFIGS))
    wanted = _CONFIGS[backend]
    if config is None:
        config = wanted()
    elif isinstance(config, dict):
        config = wanted(**config)
    elif not isinstance(config, wanted):
        raise ConfigError(f"backend {backend!r} takes a {wanted.__name__} or a dict, got {type(config).__name__}")
    # Each backend's libraries are loaded only when it is chosen.
    if backend == "client":
        from agentfly.agents.llm_backends.client import ClientBackend

        return ClientBackend(model, config)
    from agentfly.agents.llm_backends.async_vllm import AsyncVLLMBackend

    return AsyncVLLMBackend(model, config, template=template)
