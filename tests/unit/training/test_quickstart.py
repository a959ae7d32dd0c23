"""The quickstart replaces its own runs, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentfly.errors import ConfigError
from agentfly.training.quickstart import QuickstartConfig, run_quickstart


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is no run of the quickstart: give another --out"):
        run_quickstart(QuickstartConfig(out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
