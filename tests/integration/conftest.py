"""One vLLM engine for all integration tests: its start takes most of their time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from agentfly.agents.llm_backends import AsyncVLLMBackend, AsyncVLLMConfig


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backend(tiny_policy: Path) -> AsyncIterator[AsyncVLLMBackend]:
    config = AsyncVLLMConfig(max_model_len=1024, max_num_seqs=8, max_num_batched_tokens=1024, start_timeout=400)
    backend = AsyncVLLMBackend(str(tiny_policy), config, template="compact-tool")
    yield backend
    await backend.close()
