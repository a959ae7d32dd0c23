"""Fixtures that several rooms share: a tiny policy of the real class, an engine that runs it, and pictures."""

from __future__ import annotations

import functools
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from agentfly.agents.llm_backends import AsyncVLLMBackend, AsyncVLLMConfig

# `--hypothesis-profile=thorough` looks longer. A time limit for one example would fail on a busy machine.
hypothesis.settings.register_profile("quick", max_examples=25, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=1000, deadline=None)
hypothesis.settings.load_profile("quick")


def pytest_configure() -> None:
    """Let Ctrl-C reach the tests of it: a shell that starts the suite in the background has it ignored. Save time."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Every HTTP client would load all certificates anew, for 30 ms; no server of the tests has one.
    ssl.create_default_context = functools.cache(ssl.create_default_context)


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Qwen2.5-VL of a million parameters with its processor, as a Hugging Face folder."""
    from agentfly.datasets import vocabulary
    from agentfly.training.policy import build_policy

    folder = tmp_path_factory.mktemp("policy")
    build_policy(folder, vocabulary() * 2, seed=0)
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_backend(tiny_policy: Path) -> AsyncIterator[AsyncVLLMBackend]:
    """The tiny policy on one vLLM engine for all tests: its start takes most of their time."""
    config = AsyncVLLMConfig(max_model_len=1024, max_num_seqs=8, max_num_batched_tokens=1024, start_timeout=400)
    backend = AsyncVLLMBackend(str(tiny_policy), config, template="compact-tool")
    yield backend
    await backend.close()


@pytest.fixture
def picture() -> Image.Image:
    """A picture of 168 x 168 with structure in every channel."""
    ramp = np.linspace(0, 255, 168, dtype=np.uint8)
    channels = [np.tile(ramp, (168, 1)), np.tile(ramp[:, None], (1, 168)), np.full((168, 168), 90, np.uint8)]
    return Image.fromarray(np.stack(channels, axis=-1))
