"""Backends from the documented `backend=` argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agentfly.agents.llm_backends.base import LLMBackend
from agentfly.agents.llm_backends.configs import AsyncVLLMConfig, ClientConfig, ScriptedConfig
from agentfly.errors import ConfigError, unknown_name
from agentfly.settings import Settings

_CONFIGS: dict[str, type[Settings]] = {
    "async_vllm": AsyncVLLMConfig,
    "client": ClientConfig,
    "scripted": ScriptedConfig,
}


BackendSettings = Settings | Mapping[str, object] | Sequence[str] | Callable[..., object]


def make_backend(
    backend: str | LLMBackend, model: str, template: str | None, config: BackendSettings | None
) -> LLMBackend:
    """Return the backend of a name and its configuration; a backend object is returned as it is.

    Args:
        backend: "async_vllm", "client", "scripted", or a backend.
        model: checkpoint or model name.
        template: chat template of a token-level backend.
        config: configuration object, a dict of its fields, or None for the defaults; for "scripted" also the list of
            texts or the function itself.

    Raises:
        ConfigError: the backend is unknown, or the configuration is that of another backend.
    """
    if not isinstance(backend, str):
        if config is not None:
            raise ConfigError("backend_config belongs to a backend named in words; this backend is an object already")
        return backend
    if backend not in _CONFIGS:
        raise ConfigError(unknown_name("backend", backend, _CONFIGS))
    settings = _settings(backend, config)
    # Each backend's libraries are loaded only when it is chosen.
    if isinstance(settings, ScriptedConfig):
        from agentfly.agents.llm_backends.scripted import ScriptedBackend

        return ScriptedBackend(settings.script, settings.latency)
    if isinstance(settings, ClientConfig):
        from agentfly.agents.llm_backends.client import ClientBackend

        return ClientBackend(model, settings, template=template)
    from agentfly.agents.llm_backends.async_vllm import AsyncVLLMBackend

    assert isinstance(settings, AsyncVLLMConfig)
    return AsyncVLLMBackend(model, settings, template=template)


def _settings(backend: str, config: BackendSettings | None) -> Settings:
    wanted = _CONFIGS[backend]
    if isinstance(config, wanted):
        return config
    if backend == "scripted" and (callable(config) or isinstance(config, list | tuple)):
        return ScriptedConfig(script=config)
    if config is None or isinstance(config, Mapping):
        return wanted(**(config or {}))
    raise ConfigError(f"backend {backend!r} takes a {wanted.__name__} or a dict, got {type(config).__name__}")
