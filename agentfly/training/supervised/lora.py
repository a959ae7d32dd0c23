"""Low-rank adapters: add them, merge them, and read them from verl's checkpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from agentfly.errors import ConfigError, MissingExtraError, TrainingError
from agentfly.model_source import find_model
from agentfly.training.supervised.config import LoraConfig

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
_VISION = r"(?:.*\.)?(?:visual|vision_tower|vision_model)\."
_FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.(?:[^.]+\.)?weight")


class Scaling(TypedDict):
    """Rank and scale of adapters, as verl writes them beside a checkpoint."""

    r: int
    lora_alpha: float


def require_peft() -> None:
    """Raise `MissingExtraError` unless peft is installed."""
    try:
        import peft  # noqa: F401
    except ImportError as fault:
        raise MissingExtraError("adapters (lora.rank > 0)", "verl") from fault


def add_adapters(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Return the model with adapters on the language model's layers, which alone are trained.

    Args:
        model: to train.
        config: of the adapters.

    Raises:
        ConfigError: the model has no layer of these names.
    """
    import peft

    names = "|".join(map(re.escape, config.targets))
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=rf"^(?!{_VISION}).*\.(?:{names})$",
        task_type="CAUSAL_LM",
    )
    try:
        return peft.get_peft_model(model, settings)
    except ValueError as fault:
        raise ConfigError(f"lora.targets={list(config.targets)}: {fault}") from fault


def merged_model(base: str, adapter: Path) -> PreTrainedModel:
    """Return a model with an adapter's weights added to its own, computed in float32 and rounded once to its dtype.

    Args:
        base: folder or hub name of the model.
        adapter: folder of the adapter.
    """
    import peft
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    source = find_model(base, wanted="the model that the adapter belongs to", option="--base-model")
    dtype = AutoConfig.from_pretrained(source).dtype
    model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().to(dtype)


def has_factors(shards: Iterable[Path]) -> bool:
    """Return True if any of the safetensors files has weights of adapters."""
    from safetensors import safe_open

    for shard in shards:
        with safe_open(shard, "pt") as file:
            if any(_FACTOR.fullmatch(name) for name in file.keys()):  # noqa: SIM118
                return True
    return False


def merge_factors(weights: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """Return the weights of the plain model, from those of a model with adapters: W + scale · B A.

    Args:
        weights: with PEFT's names, `base_model.model.….base_layer.weight` and `….lora_A.default.weight`.
        scale: alpha / rank.

    Raises:
        TrainingError: a factor has no partner or no layer.
    """
    import torch

    factors: dict[str, dict[str, torch.Tensor]] = {}
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if found := _FACTOR.fullmatch(name):
            factors.setdefault(found["layer"], {})[found["side"]] = tensor
        else:
            plain[name] = tensor
    for layer, sides in factors.items():
        weight = next((name for name in (f"{layer}.base_layer.weight", f"{layer}.weight") if name in plain), None)
        if sides.keys() != {"A", "B"} or weight is None:
            raise TrainingError(f"the checkpoint's adapter of {layer} is incomplete")
        added = (sides["B"].to(torch.float32) @ sides["A"].to(torch.float32)) * scale
        plain[weight] = (plain[weight].to(torch.float32) + added).to(plain[weight].dtype)
    return {name.removeprefix("base_model.model.").replace(".base_layer.", "."): t for name, t in plain.items()}


def write_adapter(weights: Mapping[str, torch.Tensor], scaling: Scaling, base: str, folder: Path) -> None:
    """Write the factors among `weights` as a folder that PEFT and vLLM load.

    Args:
        weights: with PEFT's names.
        scaling: see `Scaling`.
        base: model that the adapter belongs to.
        folder: gets the files.
    """
    from safetensors.torch import save_file

    factors = {
        f"{found['layer']}.lora_{found['side']}.weight": tensor.contiguous()
        for name, tensor in weights.items()
        if (found := _FACTOR.fullmatch(name))
    }
    layers = sorted({name.split(".lora_")[0].removeprefix("base_model.model.") for name in factors})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": scaling["r"],
        "lora_alpha": scaling["lora_alpha"],
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": layers,
        "inference_mode": True,
    }
    save_file(factors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
