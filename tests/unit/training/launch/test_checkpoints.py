"""A checkpoint becomes a Hugging Face folder that loads with the weights it holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentfly.errors import TrainingError
from agentfly.training.launch.checkpoints import export_policy, newest_checkpoint, step_of


def write_checkpoint(root: Path, step: int, dtype: str = "F32") -> Path:
    folder = root / f"global_step_{step}" / "actor" / "huggingface"
    folder.mkdir(parents=True)
    config = {"dtype": "bfloat16", "hidden_size": 8, "text_config": {"dtype": "bfloat16"}, "name": "tiny"}
    (folder / "config.json").write_text(json.dumps(config))
    header = json.dumps({"__metadata__": {}, "w": {"dtype": dtype, "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    (root / "latest_checkpointed_iteration.txt").write_text(str(step))
    return root / f"global_step_{step}"


def test_newest_is_the_one_verl_would_resume(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    write_checkpoint(tmp_path, 9)
    write_checkpoint(tmp_path, 10)
    assert newest_checkpoint(tmp_path) == tmp_path / "global_step_10"
    assert step_of(newest_checkpoint(tmp_path)) == 10
    assert step_of(None) == 0


def test_export_takes_the_newest_and_names_the_dtype_of_the_weights(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints", 2)
    out = export_policy(tmp_path / "checkpoints", tmp_path / "policy")
    config = json.loads((out / "config.json").read_text())
    assert config == {"dtype": "float32", "hidden_size": 8, "text_config": {"dtype": "float32"}, "name": "tiny"}
    assert (out / "model.safetensors").is_file()


def test_export_replaces_what_was_there(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoints", 2, dtype="BF16")
    out = tmp_path / "policy"
    out.mkdir()
    (out / "old.txt").touch()
    export_policy(checkpoint, out)
    assert not (out / "old.txt").exists()
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    # The checkpoint itself stays as verl wrote it.
    assert "bfloat16" in (checkpoint / "actor" / "huggingface" / "config.json").read_text()


def test_export_of_nothing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="save_freq"):
        export_policy(tmp_path, tmp_path / "policy")
