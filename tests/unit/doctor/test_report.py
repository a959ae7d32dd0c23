"""The runner: order, dependence, time limits, faults; the report; the command."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentfly.cli import app
from agentfly.doctor import CHECKS, Check, DoctorRequest, Examination, Finding, Level, examine
from agentfly.doctor.examination import Outcome
from agentfly.doctor.findings import error, ok, skipped, warning
from agentfly.doctor.report import Report
from agentfly.errors import ConfigError, printable
from tests.unit.hostile import EVERYTHING, HOSTILE, assert_tame


def check(name: str, *findings: Finding, needs: str | None = None, seconds: float = 5.0) -> Check:
    return Check(name, "theme", f"the {name}", lambda _: findings, needs, seconds)


def test_findings_stand_in_the_order_of_the_checks_and_errors_give_the_exit_code() -> None:
    checks = [check("late", ok("1"), needs="early"), check("early", ok("2")), check("bad", error("3", "mend it"))]
    report = examine(DoctorRequest(), checks)
    assert [finding.message for finding in report.findings] == ["1", "2", "3"]
    assert report.exit_code == 1
    assert examine(DoctorRequest(), checks[:2]).exit_code == 0


@pytest.mark.parametrize(
    ("first", "expected"), [(ok("fine"), "ok"), (error("x", "y"), "skipped"), (skipped("z"), "skipped")]
)
def test_a_check_runs_only_after_what_it_needs_has_passed(first: Finding, expected: str) -> None:
    report = examine(DoctorRequest(), [check("base", first), check("upon", ok("ran"), needs="base")])
    assert report.findings[1].level.value == expected


def test_what_a_first_check_learns_is_there_for_those_that_need_it() -> None:
    def learn(examination: Examination) -> Iterable[Finding]:
        examination.served = "m"
        return [ok("learned")]

    def tell(examination: Examination) -> Iterable[Finding]:
        return [ok(str(examination.served))]

    checks = [Check("tell", "t", "x", tell, needs="learn"), Check("learn", "t", "x", learn)]
    assert examine(DoctorRequest(), checks).findings[0].message == "m"


def test_a_check_that_breaks_or_hangs_is_a_finding_and_the_others_go_on() -> None:
    released = threading.Event()

    def break_down(_: Examination) -> Iterable[Finding]:
        yield ok("half")
        raise RuntimeError("no such thing\nand more")

    def hang(_: Examination) -> Iterable[Finding]:
        released.wait(30)
        return [ok("too late")]

    checks = [
        Check("broken", "t", "a broken thing", break_down),
        Check("hung", "t", "a slow thing", hang, seconds=0.05),
        check("well", ok("fine")),
    ]
    report = examine(DoctorRequest(), checks)
    released.set()
    broken, hung, well = report.findings
    assert (broken.level, broken.message) == (Level.error, "the check itself broke: RuntimeError: no such thing")
    assert hung.message == "no answer within 0.05 s"
    assert "a slow thing" in hung.fix
    assert well.level is Level.ok


def test_the_registry_is_sound() -> None:
    by_name = {one.name: one for one in CHECKS}
    assert len(by_name) == len(CHECKS)
    assert all(by_name[one.needs].needs is None for one in CHECKS if one.needs is not None)


def test_json_has_every_finding() -> None:
    body = json.loads(examine(DoctorRequest(), [check("a", error("é", "mend it"))]).to_json())
    assert body["healthy"] is False
    assert {**body["findings"][0], "seconds": 0} == {
        "theme": "theme",
        "check": "a",
        "level": "error",
        "message": "é",
        "fix": "mend it",
        "seconds": 0,
    }


@pytest.mark.slow
def test_the_machine_is_examined_without_anything_heavy() -> None:
    """In a process of its own, because this one has torch already."""
    code = (
        "import json, sys; from agentfly.doctor import *; report = examine(DoctorRequest(), CHECKS); "
        "heavy = {'torch', 'transformers', 'verl', 'vllm', 'ray', 'cv2'} & set(sys.modules); "
        "print(json.dumps([sorted(heavy), [f.message for f in report.findings if 'itself broke' in f.message]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == [[], []]


@pytest.mark.slow
def test_the_command_takes_nodes_in_a_row_and_says_what_is_wrong() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json", "--nodes", "127.0.0.1:1", "127.0.0.1:2,ftp://x"])
    findings = [one for one in json.loads(result.stdout)["findings"] if one["check"] == "nodes"]
    assert result.exit_code == 1
    assert [one["level"] for one in findings] == ["error"] * 3
    assert "127.0.0.1:2" in findings[2]["message"]


@pytest.mark.slow
def test_the_command_shows_levels_and_fixes() -> None:
    result = CliRunner().invoke(app, ["doctor", "--nodes", "127.0.0.1:1"])
    assert "error    nodes: http://127.0.0.1:1: cannot connect" in result.stdout
    assert "fix: check host and port" in result.stdout


def test_where_the_checkpoint_comes_from(tmp_path: Path) -> None:
    assert DoctorRequest(model="org/name").source == "org/name"
    assert DoctorRequest(model="gpt", base_url="http://h/v1").source is None
    assert DoctorRequest(model=str(tmp_path), base_url="http://h/v1").source == str(tmp_path)
    assert DoctorRequest(model="gpt", base_url="http://h/v1", checkpoint="org/name").source == "org/name"
    with pytest.raises(ConfigError, match="--base-url"):
        DoctorRequest(base_url="localhost:8000")


@pytest.mark.parametrize("hostile", [*HOSTILE, EVERYTHING])
def test_findings_are_shown_whatever_a_server_said(hostile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*_: object) -> Report:
        check = Check("endpoint", "services", "an endpoint", lambda _: ())
        return Report((Outcome(check, (warning(hostile, hostile), skipped(hostile, hostile)), 0.0),), 0.0)

    monkeypatch.setattr("agentfly.doctor.examine", found)
    lines, listed = (CliRunner().invoke(app, ["doctor", *more]).stdout for more in ([], ["--json"]))
    assert [finding["message"] for finding in json.loads(listed)["findings"]] == [hostile, hostile]
    assert printable(listed) == listed
    if hostile == EVERYTHING:
        assert_tame(lines)
