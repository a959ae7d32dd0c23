"""Backends that generate text: an OpenAI-compatible server, vLLM in this process, or a script.

Importing this package is cheap: each backend imports openai or vLLM when it is first used.
"""

from agentfly.agents.llm_backends.async_vllm import AsyncVLLMBackend
from agentfly.agents.llm_backends.base import (
    FinishReason,
    Generation,
    GenerationRequest,
    LLMBackend,
    OnDelta,
    SamplingParams,
)
from agentfly.agents.llm_backends.client import ClientBackend
from agentfly.agents.llm_backends.configs import AsyncVLLMConfig, ClientConfig, ScriptedConfig
from agentfly.agents.llm_backends.factory import make_backend
from agentfly.agents.llm_backends.scripted import ScriptedBackend
from agentfly.aio import RateLimiter

__all__ = [
    "AsyncVLLMBackend",
    "AsyncVLLMConfig",
    "ClientBackend",
    "ClientConfig",
    "FinishReason",
    "Generation",
    "GenerationRequest",
    "LLMBackend",
    "OnDelta",
    "RateLimiter",
    "SamplingParams",
    "ScriptedBackend",
    "ScriptedConfig",
    "make_backend",
]
