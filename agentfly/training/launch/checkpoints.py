"""Find verl's newest checkpoint folder, and read a policy from a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from agentfly.errors import TrainingError

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def newest_checkpoint(checkpoint_dir: Path) -> Path | None:
    """The checkpoint that verl would resume from, None if there is none."""
    try:
        step = int((checkpoint_dir / "latest_checkpointed_iteration.txt").read_text())
    except (FileNotFoundError, ValueError):
        return None
    path = checkpoint_dir / f"global_step_{step}"
    return path if path.is_dir() else None


def step_of(checkpoint: Path | None) -> int:
    """The step of a `global_step_<n>` folder; 0 for None."""
    return int(checkpoint.name.rpartition("_")[2]) if checkpoint else 0


def export_policy(checkpoint: Path, out_dir: Path) -> Path:
    """Copy the policy of a checkpoint to a Hugging Face folder that transformers and vLLM load.

    Args:
        checkpoint: a `global_step_<n>` folder, or the folder of checkpoints, of which the newest is taken.
        out_dir: the new folder; an existing one is replaced.

    Returns:
        `out_dir`.

    Raises:
        TrainingError: there is no checkpoint, or it holds no Hugging Face weights.
    """
    source = (newest_checkpoint(checkpoint) or checkpoint) / "actor" / "huggingface"
    if not any(source.glob("*.safetensors")):
        raise TrainingError(
            f"{source} holds no weights: give a checkpoint folder of a run with save_freq > 0, and leave hf_model in "
            "actor_rollout_ref.actor.checkpoint.save_contents. Weights that verl saved in shards alone are joined by "
            f"python -m verl.model_merger merge --backend fsdp --local_dir {source.parent} --target_dir {source}"
        )
    partial = out_dir.with_name(out_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    _name_true_dtype(partial)
    shutil.rmtree(out_dir, ignore_errors=True)
    return partial.rename(out_dir)


def save_processor(processor: Any, template: str, folder: Path) -> None:
    """Write a processor with a chat template, so that what was trained with one is run with it."""
    processor.chat_template = processor.tokenizer.chat_template = template
    processor.save_pretrained(folder)


def _name_true_dtype(folder: Path) -> None:
    """Make `config.json` name the dtype of the weights.

    verl saves fp32 weights beside a configuration that says bfloat16 (utils/checkpoint/fsdp_checkpoint_manager.py:446),
    and transformers and vLLM would round the weights on loading.
    """
    dtype = _DTYPES.get(_weights_dtype(next(folder.glob("*.safetensors"))))
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if dtype:
        path.write_text(json.dumps(_with_dtype(config, dtype), indent=2) + "\n", encoding="utf-8")


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A configuration, and those of its text and vision parts, with another dtype wherever they name one."""
    renamed = {key: _with_dtype(value, dtype) if isinstance(value, dict) else value for key, value in config.items()}
    return renamed | {key: dtype for key in ("dtype", "torch_dtype") if isinstance(config.get(key), str)}


def _weights_dtype(path: Path) -> str:
    """dtype of the first tensor of a safetensors file (https://github.com/huggingface/safetensors#format)."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return next(str(entry["dtype"]) for name, entry in header.items() if name != "__metadata__")
