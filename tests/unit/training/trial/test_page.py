"""The recipe, the script and the commands of docs/try.md work as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentfly.cli import app

pytest.importorskip("verl")  # the recipe names its defaults
pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[4] / "docs" / "try.md"


def test_the_page_from_the_recipe_to_the_rows(
    tmp_path: Path, warm_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PAGE.read_text(encoding="utf-8")
    recipe, script = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "tiny.yaml").write_text(recipe)
    (tmp_path / "turns.yaml").write_text(script)
    (tmp_path / "runs/quickstart").mkdir(parents=True)
    (tmp_path / "runs/quickstart/warm_start").symlink_to(warm_policy)
    monkeypatch.chdir(tmp_path)
    commands = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert commands[0].startswith("agentfly try recipes/quickstart.yaml")  # needs an engine: tests/integration
    for command in commands[1:]:
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, (command, done.output, done.exception)
    assert (tmp_path / "runs/tried/gallery.html").is_file()
    assert list((tmp_path / "runs/tried_rows/data").glob("train-*.parquet"))
