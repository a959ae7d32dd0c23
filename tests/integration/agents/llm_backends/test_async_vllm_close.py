"""Closing an engine: its process ends, and nothing here keeps hold of it."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import psutil
import pytest
from PIL import Image

from agentfly.agents.llm_backends import AsyncVLLMBackend, AsyncVLLMConfig, GenerationRequest, SamplingParams
from agentfly.messages import text_message

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


async def test_close_frees_the_engine(tiny_policy: Path) -> None:
    before = children()
    config = AsyncVLLMConfig(max_model_len=256, max_num_seqs=2, max_num_batched_tokens=256, start_timeout=400)
    backend = AsyncVLLMBackend(str(tiny_policy), config, template="compact-tool")
    ids = backend.codec.prompt_ids([text_message("user", "Remove it.")], (), dict[str, Image.Image]().__getitem__)
    await backend.generate(GenerationRequest("r", "s", (), (), SamplingParams(max_tokens=4), ids))
    engine = weakref.ref(await backend._engine())
    processes = [psutil.Process(pid) for pid in children() - before]
    assert any(process.memory_info().rss > 100 * 2**20 for process in processes)
    await backend.close()
    gc.collect()
    assert engine() is None
    _, alive = psutil.wait_procs(processes, 20)
    assert [process for process in alive if process.memory_info().rss > 100 * 2**20] == []
