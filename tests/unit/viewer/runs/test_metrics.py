from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentfly.viewer.runs.growing import GrowingFile
from agentfly.viewer.runs.metric_names import SECTIONS, meaning_of
from agentfly.viewer.runs.metrics import MetricsFile
from agentfly.viewer.runs.notices import RunLogs


def line(step: object, **data: object) -> str:
    return json.dumps({"step": step, "data": data}) + "\n"


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def test_steps_appear_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    assert metrics.read().series == {}
    append(path, line(0, a=1.0))
    assert metrics.read().get("a") == ((0.0, 1.0),)
    append(path, line(1, a=2.0)[:-5])
    assert metrics.read().get("a") == ((0.0, 1.0),)
    append(path, line(1, a=2.0)[-5:])
    assert metrics.read().get("a") == ((0.0, 1.0), (1.0, 2.0))
    assert metrics.read().steps == (1,)


def test_lines_that_are_no_metrics_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, "not JSON\n{}\n[1]\nnull\n" + line("three", a=1) + line(True, a=1) + "[" * 9000 + "\n" + line(4, a=1))
    found = MetricsFile(path).read()
    assert found.damaged == 7
    assert found.get("a") == ((4.0, 1.0),)


def test_values_that_are_no_finite_numbers_are_left_out_and_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, line(1, a=float("nan"), b=None, c="x", d=[1], e=True, f=2) + line(2, a=float("inf")))
    append(path, '{"step": 3, "data": {"g": 1' + "0" * 400 + "}}\n")
    found = MetricsFile(path).read()
    assert dict(found.series) == {"f": ((1.0, 2.0),)}
    assert found.not_finite == {"a": 2, "g": 3}
    assert found.damaged == 0


def test_a_step_that_is_trained_again_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, line(1, a=1) + line(1, a=5, b=2))
    found = MetricsFile(path).read()
    assert found.get("a") == ((1.0, 5.0),)
    assert found.last("none", "b", "a") == 2.0


@pytest.mark.parametrize("longer", [False, True], ids=["shorter", "longer"])
def test_a_file_that_was_cut_back_at_a_resume_is_read_anew(tmp_path: Path, longer: bool) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, "".join(line(step, a=1.0) for step in range(10)))
    metrics = MetricsFile(path)
    metrics.read()
    path.write_text("".join(line(step, a=2.0) for step in range(20 if longer else 4)))
    assert metrics.read().get("a") == tuple((float(step), 2.0) for step in range(20 if longer else 4))


def test_a_file_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, line(1, a=1.0))
    metrics = MetricsFile(path)
    metrics.read()
    path.unlink()
    assert metrics.read().series == {}
    append(path, line(2, a=3.0))
    assert metrics.read().get("a") == ((2.0, 3.0),)


def test_a_line_separator_of_unicode_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, "a\u2028b\x0bc\nd\n")
    assert GrowingFile(path).new_lines() == (["a\u2028b\x0bc".encode(), b"d"], True)


@pytest.mark.parametrize(
    ("name", "section", "words"),
    [
        ("reward/part/tool_cost", "Learning", "tool cost"),
        ("val-core/named/reward/mean@1", "Held-out tasks", "named"),
        ("timing_s/update_actor", "Time", "update"),
        ("wait/because/{0.__class__}", "Tools", "{0.  class  }"),
        ("actor/something_new", "Optimiser", ""),
        ("<script>", "Other", ""),
    ],
)
def test_metrics_have_a_section_and_a_meaning(name: str, section: str, words: str) -> None:
    assert meaning_of(name)[0] == section
    assert words in meaning_of(name)[1]
    assert section in SECTIONS


def test_the_newest_log_gives_warnings_once_with_their_number(tmp_path: Path) -> None:
    (tmp_path / "20260101-1.log").write_text("agentfly notice: an old one\n")
    health = (
        "(TaskRunner pid=7) WARNING:x: agentfly notice: step {}: no_op_edits is 0.{}, above 0.5 for 3 steps; look\n"
    )
    (tmp_path / "20260102-1.log").write_text(
        health.format(4, 6) + "noise\nagentfly notice: step 5 is sampled again in 30 s\n" + health.format(6, 8)
    )
    logs = RunLogs(tmp_path)
    first, second = logs.read().notices
    assert (first.metric, first.step, first.count) == ("no_op_edits", 6, 2)
    assert "0.8" in first.text
    assert second.text == "step 5 is sampled again in 30 s"


def test_an_error_counts_only_if_the_run_went_no_further(tmp_path: Path) -> None:
    path = tmp_path / "1.log"
    path.write_text("(Worker pid=3) ray.exceptions.RayError: gone\n")
    logs = RunLogs(tmp_path)
    assert logs.read().error == "ray.exceptions.RayError: gone"
    append(path, "INFO: agentfly: rollouts are done for step 3\n")
    assert logs.read().error == ""
    append(path, "ValueError: http://me:password@host/ was refused\n")
    assert logs.read().error == "ValueError: http://***@host/ was refused"


def test_a_run_without_logs_has_no_warnings(tmp_path: Path) -> None:
    assert RunLogs(tmp_path / "none").read().notices == ()
