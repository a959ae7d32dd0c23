"""Records are found by what an evaluator's scores depend on, and by nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from agentfly.errors import ConfigError
from agentfly.evaluation.calibration.record import (
    VARIABLE,
    Record,
    fingerprint,
    read_record,
    record_folder,
    write_record,
)

JUDGE: dict[str, Any] = {"evaluator": "judge", "model": "m", "base_url": "http://h/v1"}


def record(spec: Any, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "fingerprint": fingerprint(spec),
        "evaluator": {},
        "made": "2026-12-01T00:00:00+00:00",
        "version": "0",
        "accuracy": {"mean": 0.9, "low": 0.8, "high": 1.0},
        "let_through": ["blank"],
        "cautions": ["the attack 'blank' is through on 50 % of the tasks"],
        "tasks": 24,
    }
    return Record(**{**values, **changes})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("reference", {"evaluator": "reference"}),
        (JUDGE, {**JUDGE, "name": "my judge", "timeout": 5, "api_key_env": "K", "guard": {"in_flight": 2}}),
        (
            {"evaluator": "composite", "parts": {"a": "reference"}},
            {"evaluator": "composite", "parts": {"a": {"evaluator": "reference", "guard": {}}}},
        ),
    ],
)
def test_limits_and_labels_do_not_make_another_evaluator(one: Any, other: Any) -> None:
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    "change", [{"model": "n"}, {"passes": 2}, {"base_url": "http://other/v1"}, {"rubric": "jewelry"}]
)
def test_what_a_score_depends_on_does(change: dict[str, Any]) -> None:
    assert fingerprint(JUDGE) != fingerprint({**JUDGE, **change})


def test_new_weights_in_the_same_folder_are_another_evaluator(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    spec = {"evaluator": "editscore", "model": str(tmp_path)}
    before = fingerprint(spec)
    (tmp_path / "config.json").write_text("{ }", encoding="utf-8")
    assert fingerprint(spec) != before


def test_new_code_of_ones_own_is_another_evaluator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "scorer_of_mine.py"
    file.write_text("def make(): ...\n", encoding="utf-8")
    before = fingerprint("scorer_of_mine:make")
    file.write_text("def make(): return 1\n", encoding="utf-8")
    assert fingerprint("scorer_of_mine:make") != before
    sys.modules.pop("scorer_of_mine", None)


def test_a_record_is_read_as_it_was_written_and_only_for_its_evaluator(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "records"
    assert read_record("reference", folder) is None
    written = record("reference")
    path = write_record(written, folder)
    assert path.name == f"{fingerprint('reference')}.json"
    assert read_record("reference", folder) == written
    assert read_record("structural", folder) is None
    for text in ("{", '{"format": "x"}', "[]"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="calibrate` again, or remove the file"):
            read_record("reference", folder)


def test_the_folder_is_the_named_one_then_that_of_the_environment_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE, raising=False)
    assert record_folder() == tmp_path / "cache" / "agentfly" / "calibration"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "here"))
    assert record_folder() == tmp_path / "here"
    assert record_folder(tmp_path) == tmp_path
