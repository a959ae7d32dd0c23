"""Rollouts and training steps of `gpu.py`: vLLM and verl on a policy of the real shape, where they are installed."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import numpy as np
import torch
from gpu_bench import Bench
from gpu_models import POLICIES, ROOT, schemas
from gpu_policy import conversation
from PIL import Image

from agentfly.agents.llm_backends import GenerationRequest
from agentfly.agents.llm_backends.async_vllm import AsyncVLLMBackend
from agentfly.agents.llm_backends.base import SamplingParams
from agentfly.agents.llm_backends.configs import AsyncVLLMConfig
from agentfly.templates import load_template
from agentfly.training.launch.checkpoints import save_processor

NAME = "Qwen2.5-VL-3B"


def save_policy(bench: Bench, folder: Path) -> str:
    """Write the policy with random weights, and its processor."""
    shape = POLICIES[NAME]
    dtype = torch.float32 if bench.device == "cpu" else torch.bfloat16
    shape.model(bench.device, dtype, tiny=bench.tiny).save_pretrained(folder)
    save_processor(shape.processor(bench.tiny), load_template(shape.template), folder)
    return str(folder)


def rollouts_part(bench: Bench) -> None:
    """Measure turns with an image each that vLLM generates together."""
    with bench.of(NAME), tempfile.TemporaryDirectory() as folder:
        if bench.room("turns by vLLM"):
            _rollouts(bench, save_policy(bench, Path(folder)))


def _rollouts(bench: Bench, folder: str) -> None:
    chains, tokens = (2, 8) if bench.tiny else (64, 256)
    backend = AsyncVLLMBackend(folder, config=AsyncVLLMConfig(max_model_len=4096))
    side = 64 if bench.tiny else 512
    noise = np.random.default_rng(0).integers(0, 256, (chains, side, side, 3), np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    messages, tools = conversation()[:2], schemas()

    async def turn(number: int) -> int:
        def load(handle: str) -> Image.Image:
            return images[(number + int(handle)) % chains]

        ids = backend.codec.prompt_ids(messages, tools, load)
        sampling = SamplingParams(max_tokens=tokens, extra={"ignore_eos": True})
        request = GenerationRequest(f"{number}", f"{number}", messages, tools, sampling, ids, ("0",), load)
        return (await backend.generate(request)).completion_tokens

    with asyncio.Runner() as runner:

        async def together() -> int:
            return sum(await asyncio.gather(*(turn(number) for number in range(chains))))

        what = f"{chains} turns at once, one image each"
        bench.measure(what, lambda: runner.run(together()), calls=2, tokens=chains * tokens)
        runner.run(backend.close())


def step_part(bench: Bench) -> None:
    """Measure two steps of the recipe for one GPU: LoRA, GRPO, the embedded tools."""
    with bench.of(NAME), tempfile.TemporaryDirectory() as folder:
        if bench.device == "cpu":
            bench.skip("a step of verl", "its recipe is for a GPU; benchmarks/training.py measures steps on a CPU")
        elif bench.room("a step of verl"):
            _step(bench, Path(folder))


def _step(bench: Bench, folder: Path) -> None:
    from agentfly.training.launch.launcher import launch
    from agentfly.training.launch.prepare import prepare
    from agentfly.training.recipe.compose import compose, to_override

    overrides = {
        "agentfly.model": save_policy(bench, folder / "policy"),
        "agentfly.out": folder / "run",
        "agentfly.data.limit": 64,
        "trainer.total_training_steps": 2,
    }
    recipe = ROOT / "recipes" / "lora_single_gpu.yaml"
    outcome = launch(prepare(compose(recipe, [to_override(key, value) for key, value in overrides.items()])))
    for number, metrics in outcome.metrics:
        parts = {key.rpartition("/")[2]: value for key, value in metrics.items() if key.startswith("timing_s/")}
        bench.add(f"step {number} of lora_single_gpu, seconds", **parts)
