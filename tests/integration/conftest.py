"""The engine of the integration tests."""

from __future__ import annotations

import pytest_asyncio

from agentfly.agents.llm_backends import AsyncVLLMBackend


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend(vllm_backend: AsyncVLLMBackend) -> AsyncVLLMBackend:
    """The shared engine."""
    return vllm_backend
