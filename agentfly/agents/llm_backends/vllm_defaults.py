"""The settings that vLLM needs beyond its own defaults, in this process and for `vllm serve`."""

from __future__ import annotations

from typing import Any

ANY_DEVICE: dict[str, Any] = {
    "limit_mm_per_prompt": {"image": 8, "video": 0},
    # Of the model itself, before temperature and masks: what a trainer computes.
    "logprobs_mode": "raw_logprobs",
}
CPU: dict[str, Any] = {
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
CPU_IN_PROCESS: dict[str, Any] = {"distributed_executor_backend": "uni"}
CPU_IN_PROCESS_ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def is_cpu_build() -> bool:
    """Whether the installed vLLM is the one for CPUs, told from its version as vLLM itself does; loads nothing.

    Raises:
        importlib.metadata.PackageNotFoundError: vLLM is not installed.
    """
    from importlib import metadata

    return "cpu" in metadata.version("vllm")
