"""Few-step editing: the Qwen-Image-Lightning LoRA, the scheduler it was distilled with, and no guidance.

Settings and files as published at https://github.com/ModelTC/Qwen-Image-Lightning.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

from agentfly.errors import ConfigError
from agentfly.model_source import find_model, is_local
from agentfly.vision.model_runtime import loading

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

logger = logging.getLogger(__name__)

# The distillation shifts noise levels by 3, independent of the size of the image.
SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": math.log(3),
    "max_image_seq_len": 8192,
    "max_shift": math.log(3),
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": None,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
GUIDANCE = 1.0


def published_lora(model: str, steps: int) -> str:
    """Return the published LoRA for a checkpoint as "owner/repository:file"; versions 2509 and 2511 have their own.

    Args:
        model: name of the checkpoint.
        steps: 8 or 4.
    """
    if "2511" in model:
        return (
            f"lightx2v/Qwen-Image-Edit-2511-Lightning:Qwen-Image-Edit-2511-Lightning-{steps}steps-V1.0-bf16.safetensors"
        )
    if "2509" in model:
        name = f"Qwen-Image-Edit-2509-Lightning-{steps}steps-V1.0-bf16.safetensors"
        return f"lightx2v/Qwen-Image-Lightning:Qwen-Image-Edit-2509/{name}"
    return f"lightx2v/Qwen-Image-Lightning:Qwen-Image-Edit-Lightning-{steps}steps-V1.0-bf16.safetensors"


def make_fast(pipeline: DiffusionPipeline, model: str, lora: str | None, steps: int) -> None:
    """Give a Qwen-Image pipeline the Lightning LoRA and its scheduler.

    Args:
        pipeline: a freshly loaded pipeline.
        model: name of its checkpoint.
        lora: file, or "owner/repository:file"; None is the published one.
        steps: 8 or 4.

    Raises:
        ConfigError: the pipeline is no Qwen-Image pipeline, or the LoRA does not fit.
    """
    if not type(pipeline).__name__.startswith("QwenImage"):
        raise ConfigError(
            f"use_fast is the Lightning LoRA of Qwen-Image, but {model!r} is a {type(pipeline).__name__}: "
            "leave it out, or set steps"
        )
    from diffusers import FlowMatchEulerDiscreteScheduler

    fuse_lora(pipeline, lora or published_lora(model, steps))
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(SCHEDULER)


def fuse_lora(pipeline: DiffusionPipeline, lora: str) -> None:
    """Add the weights of a LoRA to a pipeline's own; a fused LoRA costs no time at a step.

    Args:
        pipeline: a freshly loaded pipeline.
        lora: file, or "owner/repository:file".

    Raises:
        ConfigError: there is no such file, or none of its weights belongs to this pipeline.
    """
    with loading(lora, "a LoRA"):
        if is_local(lora):
            path = Path(lora).expanduser()
            if not path.is_file():
                raise ConfigError(f"there is no file {lora!r}: give a .safetensors file, or 'owner/repository:file'")
            pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
        else:
            repository, colon, file = lora.partition(":")
            if not colon:
                raise ConfigError(f"{lora!r} is no file; on the hub, name repository and file: 'owner/repository:file'")
            pipeline.load_lora_weights(find_model(repository, file, "a LoRA"), weight_name=file)
    if not pipeline.get_active_adapters():
        raise ConfigError(f"no weight of the LoRA {lora!r} belongs to a {type(pipeline).__name__}: check the file")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    logger.info("fused the LoRA %s", lora)
