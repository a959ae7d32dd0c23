"""`agentfly calibrate` as a person types it: tables, report, record, and the verdict on scripted judges."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentfly.cli import app
from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluation.calibration.attacks import ATTACKS
from agentfly.evaluation.calibration.graded import built_in_material
from agentfly.evaluation.calibration.page import summary_tables
from agentfly.evaluation.calibration.record import read_record
from agentfly.evaluation.calibration.run import CalibrationSettings, calibrate
from agentfly.evaluators import EditSample, Score
from tests.unit.benchmarks.calibration_script import SCRIPT

pytestmark = pytest.mark.slow

TASKS = 4


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The report on all evaluators of the benchmark."""
    out = tmp_path_factory.mktemp("calibration")
    return measured(out)


def measured(out: Path) -> Any:
    with SCRIPT.endpoint(SCRIPT.Script(list(built_in_material(TASKS, 0, ATTACKS).items))) as address:
        settings = CalibrationSettings(
            evaluator=tuple(SCRIPT.evaluators(address)), out=out, tasks=TASKS, records=out / "records"
        )
        return asyncio.run(calibrate(settings))


def test_the_honest_judge_is_told_from_the_lenient_and_the_hackable_one(report: Any) -> None:
    found = report.report["evaluators"]
    assert found["reference"]["accuracy"]["share"]["mean"] == 1.0
    assert found["honest judge"]["accuracy"]["share"]["mean"] > 0.85
    assert found["honest judge"]["let_through"] == []
    assert set(found["lenient judge"]["let_through"]) == set(ATTACKS) - {"unchanged source"}
    assert set(found["hackable judge"]["let_through"]) == {"instruction painted", "words to the judge", "watermark"}
    assert found["composite"]["let_through"] == []
    assert found["lenient judge"]["worth"]["rank_correlation"]["mean"] < 0.6
    assert found["hackable judge"]["cost"]["mean"] > 0
    assert found["reference"]["cost"] is None
    assert found["reference"]["retest"]["spread"] == 0.0
    pairs = {(one["one"], one["other"]) for one in report.report["agreement"]}
    assert ("reference", "composite") in pairs
    assert len(pairs) == 15


def test_the_printed_tables_have_intervals_the_curve_and_the_time_of_a_sample(report: Any) -> None:
    printed = summary_tables(report.report)
    rows = {cells[1].strip(): cells[2:-1] for line in printed.splitlines() if len(cells := line.split("|")) > 3}
    hackable = [cell.strip() for cell in rows["words to the judge"]][4]
    assert re.fullmatch(r"100\.0; 100\.0 \[\d+, 100\] !", hackable)
    pairs = [sum(int(cell.rsplit(" ", 1)[1]) for cell in cells) for cells in _curves(rows)]
    assert pairs == [one["accuracy"]["pairs"] for one in report.report["evaluators"].values()]
    [times] = [cells for name, cells in rows.items() if name == "milliseconds a sample, 8 at once"]
    assert all(re.fullmatch(r" *[\d.]+ \[[\d.]+, [\d.]+\] *", cell) for cell in times)


def _curves(rows: dict[str, list[str]]) -> list[list[str]]:
    """Return the cells of each evaluator in the table of the curves, those without pairs left out."""
    bins = [cells for name, cells in rows.items() if re.fullmatch(r"\d+ to \d+", name)]
    return [[cell.strip() for cell in column if " of " in cell] for column in zip(*bins, strict=True)]


def test_the_page_loads_nothing_and_shows_the_attacks_that_came_through(report: Any) -> None:
    page = report.page.read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    assert "words to the judge" in page
    assert page.count("<svg") == 12
    assert page.count('class="strip"') == sum(len(one["let_through"]) for one in report.report["evaluators"].values())
    folder = report.page.parent
    assert json.loads((folder / "calibration.json").read_text())["format"] == "agentfly.calibration_report/1"
    lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert len(lines) == report.report["samples"]
    assert len(lines[0]["scores"]) == 6


def test_each_evaluator_leaves_a_record_that_training_finds(report: Any) -> None:
    folder = report.page.parent / "records"
    record = read_record("reference", folder)
    assert record is not None
    assert record.let_through == []
    assert len(list(folder.iterdir())) == 6


class Shy:
    """An evaluator that scores nothing."""

    async def evaluate(self, sample: EditSample) -> Score:
        """Refuse."""
        raise EvaluatorError("<b>not today</b>")


def make_shy() -> Shy:
    """Return one."""
    return Shy()


def test_who_scored_no_pair_has_tables_and_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTFLY_CALIBRATION", str(tmp_path / "records"))
    out = tmp_path / "out"
    words = ["calibrate", f"{__name__}:make_shy", "--tasks", "1", "--repeats", "0", "-o", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1, done.output
    assert str(done.exception).endswith("scored no pair, and has no record: <b>not today</b>")
    assert "| not scored | " in done.stdout
    assert "samples were not scored" in done.stderr.replace("\n", "")
    assert "&lt;b&gt;not today" in (out / "calibration.html").read_text(encoding="utf-8")
    assert not (tmp_path / "records").exists()


class Revoked:
    """An evaluator whose key is refused after a few samples."""

    def __init__(self) -> None:
        self.left = 3

    async def evaluate(self, sample: EditSample) -> Score:
        """Score, or refuse."""
        self.left -= 1
        if self.left < 0:
            raise ConfigError("the key is refused")
        return Score(50.0)


def test_what_was_measured_before_one_fails_is_not_lost(tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = CalibrationSettings(
        evaluator=("reference", f"{__name__}:Revoked", "structural"), out=out, tasks=1, records=tmp_path / "records"
    )
    with pytest.raises(ConfigError, match=r"Revoked: the key is refused; the report on reference is .*out/calibration"):
        asyncio.run(calibrate(settings))
    assert list(json.loads((out / "calibration.json").read_text())["evaluators"]) == ["reference"]
    assert len(list((tmp_path / "records").iterdir())) == 1


def test_a_server_that_is_down_is_told_before_any_evaluator_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentfly.evaluation.calibration.run.measure", None)  # would fail
    down = '{"evaluator": "http", "base_url": "http://127.0.0.1:9"}'
    settings = CalibrationSettings(evaluator=("reference", down), out=tmp_path / "out", tasks=1)
    with pytest.raises(EvaluatorError, match=r"http: the evaluator at http://127\.0\.0\.1:9 does not answer"):
        asyncio.run(calibrate(settings))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["referense"], "Did you mean 'reference'"),
        (["reference", "--data", "nothing"], "unknown source of pairs 'nothing'"),
        (["reference", "--data", "missing.jsonl"], "agentfly view RUN --ratings missing.jsonl"),
        (["reference", "--attack", "nowhere:f"], "no module 'nowhere'"),
        (['{"evaluator": "judge", "model": "m", "api_key": "k-123456"}'], "keys do not belong into settings"),
        (['{"reward": "a:b"}'], "which has no score of a pair of images"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["calibrate", *words, "--tasks", "1", "-o", str(tmp_path / "out")])
    assert done.exit_code != 0
    assert message in str(done.exception)
    assert "k-123456" not in str(done.exception)
