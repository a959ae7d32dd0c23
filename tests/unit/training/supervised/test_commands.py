"""The commands print the plan of a run, and end with one line when something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentfly.cli import app
from agentfly.errors import ConfigError


def test_a_dry_run_checks_and_writes_nothing(small_policy: Path, tmp_path: Path) -> None:
    words = [f"model={small_policy}", f"out={tmp_path / 'run'}", "data.stickers=4", "training.epochs=8"]
    done = CliRunner().invoke(app, ["sft", *words, "training.batch_size=3", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "would take 8 steps of 3 samples" in done.output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_sft_and_export_are_one_after_another(small_policy: Path, tmp_path: Path) -> None:
    words = [f"model={small_policy}", f"out={tmp_path / 'run'}", "data.stickers=4", "training.batch_size=3"]
    done = CliRunner().invoke(app, ["sft", *words])
    assert done.exit_code == 0, done.output
    assert "held-out loss" in done.output
    again = CliRunner().invoke(app, ["sft", *words])
    assert isinstance(again.exception, ConfigError)
    out = tmp_path / "policy"
    assert CliRunner().invoke(app, ["export", str(tmp_path / "run"), "--out", str(out)]).exit_code == 0
    assert {"README.md", "agentfly.json", "model.safetensors"} <= {path.name for path in out.iterdir()}
