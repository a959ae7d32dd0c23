"""Settings that replace vLLM's own defaults, in this process and for `vllm serve`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict


class EngineDefaults(TypedDict):
    """Engine arguments for every device."""

    limit_mm_per_prompt: Mapping[str, int]
    logprobs_mode: str


ANY_DEVICE: EngineDefaults = {
    "limit_mm_per_prompt": {"image": 8, "video": 0},
    # Log-probs of the model itself, before temperature and masks, as a trainer computes them.
    "logprobs_mode": "raw_logprobs",
}
CPU: Mapping[str, object] = {
    "dtype": "float32",
    "enforce_eager": True,
    "kv_cache_memory_bytes": 128 * 1024 * 1024,
    # A prompt cut in two rewinds the request's random generator, which torch's CPU generator cannot do: a seeded
    # request would kill the engine (vllm/v1/worker/gpu_model_runner.py:3640, `gen.set_offset`).
    "enable_chunked_prefill": False,
}
# Compiling helpers, which vLLM does even in eager mode, doubles its start on a CPU and slows decoding.
CPU_ENVIRONMENT = {"TORCHDYNAMO_DISABLE": "1"}
# Without multiprocessing vLLM keeps the "uni" executor on a CPU.
CPU_IN_PROCESS: Mapping[str, object] = {"distributed_executor_backend": "uni"}
CPU_IN_PROCESS_ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def is_cpu_build() -> bool:
    """Return True if the installed vLLM is the build for CPUs; read from its version as vLLM does, without loading it.

    Raises:
        importlib.metadata.PackageNotFoundError: vLLM is not installed.
    """
    from importlib import metadata

    return "cpu" in metadata.version("vllm")
