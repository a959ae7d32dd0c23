"""The benchmark of the viewer runs, and measures every row of its table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import programs


@pytest.mark.slow
def test_a_quick_run_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    done = programs.run("benchmarks/viewer.py", "--quick", "--json", str(file), timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text(encoding="utf-8"))
    figures = {figure["name"]: figure for figure in found["figures"]}
    assert all(figure["value"] > 0 for figure in figures.values())
    starts = ("refresh of 10 chains", "first rows of 400 chains", "opening a log", "page without images", "thumbnail")
    for start in starts:
        assert any(name.startswith(start) for name in figures), start
    # Times depend on the machine. Sizes do not.
    sizes = [figure for figure in figures.values() if figure["unit"] == "kB"]
    assert [figure["name"] for figure in sizes if not figure["reached"]] == []
    assert "reached" in done.stdout
