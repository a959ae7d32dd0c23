"""Find verl's newest checkpoint folder, and read a policy from a checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from agentfly.errors import TrainingError

if TYPE_CHECKING:
    from transformers import ProcessorMixin

TRACKER = "latest_checkpointed_iteration.txt"  # verl's note of its newest checkpoint
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def newest_checkpoint(checkpoint_dir: Path) -> Path | None:
    """Return the checkpoint that verl would resume from, None if there is none."""
    try:
        step = int((checkpoint_dir / TRACKER).read_text())
    except (FileNotFoundError, ValueError):
        return None
    path = checkpoint_dir / f"global_step_{step}"
    return path if path.is_dir() else None


def step_of(checkpoint: Path | None) -> int:
    """Return the step of a `global_step_<n>` folder; 0 for None."""
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
    _correct_dtype(partial)
    shutil.rmtree(out_dir, ignore_errors=True)
    return partial.rename(out_dir)


def save_processor(processor: ProcessorMixin, template: str, folder: Path) -> None:
    """Save a processor with the chat template that its model was trained with.

    Args:
        processor: changed in place.
        template: the chat template's text.
        folder: gets the processor's files.
    """
    processor.chat_template = processor.tokenizer.chat_template = template
    processor.save_pretrained(folder)


def _correct_dtype(folder: Path) -> None:
    """Write the dtype of the weights into `config.json`.

    verl saves fp32 weights beside a configuration that says bfloat16 (utils/checkpoint/fsdp_checkpoint_manager.py:446),
    and transformers and vLLM would round the weights on loading.
    """
    with next(folder.glob("*.safetensors")).open("rb") as file:
        # https://github.com/huggingface/safetensors#format
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    first = next(entry["dtype"] for name, entry in header.items() if name != "__metadata__")
    if (dtype := _DTYPES.get(first)) is None:
        return

    def corrected(config: dict[str, object]) -> dict[str, object]:
        """Return a configuration with the dtype wherever it names one, in its text and vision parts too."""
        inner = {key: corrected(value) if isinstance(value, dict) else value for key, value in config.items()}
        return inner | {key: dtype for key in ("dtype", "torch_dtype") if isinstance(config.get(key), str)}

    path = folder / "config.json"
    config = corrected(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
