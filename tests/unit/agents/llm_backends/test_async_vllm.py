"""What is decided before vLLM is asked; the engine itself is in the integration tests."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from agentfly.agents.llm_backends import AsyncVLLMConfig, GenerationRequest, SamplingParams, async_vllm
from agentfly.agents.llm_backends.async_vllm import (
    AsyncVLLMBackend,
    engine_arguments,
    sampling_arguments,
)
from agentfly.agents.llm_backends.token_exact import check_prompt
from agentfly.agents.llm_backends.vllm_defaults import CPU_ENVIRONMENT, CPU_IN_PROCESS_ENVIRONMENT
from agentfly.errors import BackendError
from agentfly.templates import ChatCodec


@pytest.fixture(scope="module")
def codec(tiny_policy: Path) -> ChatCodec:
    return ChatCodec.from_pretrained(str(tiny_policy))


def request(**fields: object) -> GenerationRequest:
    return GenerationRequest("r", "s", [], [], SamplingParams(**fields))  # type: ignore[arg-type]


def test_cpu_defaults_give_way_to_what_was_given() -> None:
    arguments = engine_arguments("m", AsyncVLLMConfig(dtype="bfloat16", limit_mm_per_prompt={"image": 2}), cpu=True)
    assert (arguments["dtype"], arguments["limit_mm_per_prompt"]) == ("bfloat16", {"image": 2})
    assert arguments["kv_cache_memory_bytes"] == 134217728
    assert arguments["distributed_executor_backend"] == "uni"


def test_gpu_keeps_vllms_own_defaults() -> None:
    arguments = engine_arguments("m", AsyncVLLMConfig(), cpu=False)
    assert set(arguments) == {"model", "limit_mm_per_prompt", "logprobs_mode"}


def test_sampling(codec: ChatCodec) -> None:
    extra = {"top_k": 5, "logit_bias": {7: 1.0}}
    arguments = sampling_arguments(request(temperature=0.5, seed=3, extra=extra), codec, streaming=False)
    assert (arguments["temperature"], arguments["seed"], arguments["top_k"]) == (0.5, 3, 5)
    assert arguments["logit_bias"] == {codec.image_id: -100.0, 7: 1.0}
    assert arguments["stop_token_ids"] == sorted(codec.eos_ids)
    assert arguments["detokenize"] is False
    assert sampling_arguments(request(extra={"stop": ["x"]}), codec, streaming=False)["detokenize"] is True


@pytest.mark.parametrize(
    ("theirs", "place"), [([1, 9, 3], "first difference at 1: vLLM [9, 3]"), ([1, 2], "first difference at 2: vLLM []")]
)
def test_another_prompt_is_refused_and_located(theirs: list[int], place: str) -> None:
    check_prompt([1, 2, 3], (1, 2, 3), "")
    with pytest.raises(BackendError) as fault:
        check_prompt(theirs, (1, 2, 3), "Use another.")
    assert f"{place}, rollout" in str(fault.value)
    assert str(fault.value).endswith("Use another.")


class FakeEngine:
    """Counts how often it is started and stopped."""

    output_handler = None

    def __init__(self) -> None:
        self.stopped = 0

    def shutdown(self) -> None:
        self.stopped += 1


async def test_a_failed_start_is_told_to_all_and_tried_again(codec: ChatCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[str] = []
    engine = FakeEngine()

    def start(model: str, config: AsyncVLLMConfig) -> FakeEngine:
        starts.append(model)
        if len(starts) == 1:
            raise BackendError("no memory")
        return engine

    monkeypatch.setattr(async_vllm, "start_engine", start)
    backend = AsyncVLLMBackend("m", codec=codec)
    failed = await asyncio.gather(*(backend._engine() for _ in range(3)), return_exceptions=True)
    assert [str(fault) for fault in failed] == ["no memory"] * 3
    assert starts == ["m"]
    assert [*await asyncio.gather(backend._engine(), backend._engine())] == [engine, engine]
    await backend.close()
    await backend.close()
    assert (len(starts), engine.stopped) == (2, 1)


async def test_a_start_that_takes_too_long_is_stopped_when_it_comes(
    codec: ChatCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, stopped = threading.Event(), threading.Event()

    class Late(FakeEngine):
        def shutdown(self) -> None:
            stopped.set()

    def start(model: str, config: AsyncVLLMConfig) -> FakeEngine:
        release.wait(10)
        return Late()

    monkeypatch.setattr(async_vllm, "start_engine", start)
    monkeypatch.setattr(async_vllm, "_START_MARGIN", 0.0)
    backend = AsyncVLLMBackend("m", AsyncVLLMConfig(start_timeout=0.05), codec=codec)
    with pytest.raises(BackendError, match=r"within 0.05 s; raise the start_timeout of backend_config"):
        await backend._engine()
    release.set()
    assert stopped.wait(10)


def test_engine_environment_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "0")
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    with async_vllm._environment_defaults({**CPU_ENVIRONMENT, **CPU_IN_PROCESS_ENVIRONMENT}):
        assert (os.environ["TORCHDYNAMO_DISABLE"], os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]) == ("0", "0")
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in os.environ
