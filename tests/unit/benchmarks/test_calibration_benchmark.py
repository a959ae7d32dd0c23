"""The benchmark of docs/evaluators.md: what its scripted judges say, and that it runs as it is typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.unit.benchmarks.calibration_script import ROOT, SCRIPT


def request(judge: str, uris: list[str], names: list[str]) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": uri}} for uri in uris]
    schema: dict[str, Any] = {"properties": {"feedback": {}, **{name: {} for name in names}}}
    return {
        "model": judge,
        "messages": [{"role": "user", "content": content}],
        "response_format": {"json_schema": {"schema": schema}},
    }


def test_the_judges_rate_by_what_was_done_and_the_same_twice() -> None:
    from agentfly.evaluation.calibration.attacks import ATTACKS
    from agentfly.evaluation.calibration.graded import built_in_material
    from agentfly.images import data_uri

    items = {item.name: item for item in built_in_material(1, 0, ATTACKS).items}
    script = SCRIPT.Script(list(items.values()))

    def rated(judge: str, name: str) -> dict[str, object]:
        sample = items[name].make()
        assert sample.result is not None
        asked = request(judge, [data_uri(sample.source), data_uri(sample.result)], ["success", "no_over_edit"])
        return script.rate(judge, asked)

    assert rated("honest", "right") == rated("honest", "right")
    assert int(str(rated("honest", "right")["success"])) >= 8
    assert int(str(rated("honest", "blank")["success"])) <= 3
    assert int(str(rated("lenient", "blank")["success"])) >= 7
    assert rated("hackable", "words to the judge")["success"] == 10


@pytest.mark.slow
def test_it_runs_as_it_is_typed(tmp_path: Path) -> None:
    done = programs.run("benchmarks/calibration.py", "--tasks", "1", "--out", str(tmp_path), cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "| words to the judge |" in done.stdout
    assert (tmp_path / "calibration.html").is_file()
