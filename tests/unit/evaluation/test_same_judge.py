"""Scores of different judges are not compared: other models, other versions, other prompts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentfly.agents.trajectory_file import FILE_NAME
from agentfly.errors import ConfigError
from agentfly.evaluation import compare_runs, comparison_page
from agentfly.evaluators.judge.settings import JudgeUsage
from tests.unit.evaluation.agents import record

JUDGE = {"evaluator": "judge", "model": "gpt-4.1", "scheme": "viescore", "temperature": 0.0}
PROTOCOL = {"protocol": "gedit", "split": "en", "prompts": "abc", "judge": {"model": "gpt-4.1", "base_url": None}}


def put(
    folder: Path, spec: dict[str, Any] | None, models: tuple[str, ...] = ("gpt-4.1-x",), day: str = "2026-12-01"
) -> Path:
    """A run of one task, judged."""
    folder.mkdir()
    usage = JudgeUsage(samples=1, requests=1, models=models, dates=(day,))
    one = replace(record("t", 50.0), judges={"judge": usage} if models or spec == JUDGE else {})
    (folder / FILE_NAME).write_text(f"{one.to_json()}\n")
    if spec is not None:
        (folder / "settings.json").write_text(json.dumps({"evaluator": {"judge": spec}}))
    return folder


def test_the_same_judge_on_two_days_is_compared_and_the_days_are_told(tmp_path: Path) -> None:
    pace = {"timeout": 9, "attempts": 7, "input_price": 2.0, "api_key_env": "K", "guard": {"in_flight": 2}}
    a, b = put(tmp_path / "a", JUDGE), put(tmp_path / "b", {**JUDGE, **pace}, day="2026-12-03")
    found = compare_runs(a, b)
    assert found["evaluators"]["judge"]["judged"] == ["2026-12-01", "2026-12-03"]
    assert "answered on 2026-12-01, 2026-12-03 (UTC)" in comparison_page(found)


def test_a_run_that_does_not_tell_the_day_is_named(tmp_path: Path) -> None:
    a, b = put(tmp_path / "a", JUDGE), put(tmp_path / "b", JUDGE)
    lines = (b / FILE_NAME).read_text()
    (b / FILE_NAME).write_text(lines.replace('"dates": ["2026-12-01"]', '"dates": []'))
    assert compare_runs(a, b)["evaluators"]["judge"]["judged"] == ["2026-12-01", f"an unknown day ({b})"]


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (JUDGE, {**JUDGE, "model": "gpt-4o"}, "model=gpt-4.1 in .*model=gpt-4o in"),
        (JUDGE, {**JUDGE, "temperature": 0.7}, "temperature=0.0"),
        (PROTOCOL, {**PROTOCOL, "judge": {"model": "gpt-4o", "base_url": "http://h/v1"}}, "judge.model=gpt-4.1 in"),
        (PROTOCOL, {**PROTOCOL, "prompts": "other"}, "prompts=abc in .*prompts=other"),
        (PROTOCOL, {**PROTOCOL, "split": "cn"}, "split=en in"),
        (JUDGE, PROTOCOL, "is not the same in both runs"),
    ],
)
def test_another_judge_is_refused(tmp_path: Path, one: dict[str, Any], other: dict[str, Any], words: str) -> None:
    a, b = put(tmp_path / "a", one), put(tmp_path / "b", other)
    with pytest.raises(ConfigError, match=words) as refused:
        compare_runs(a, b)
    assert "agentfly replay RUN" in str(refused.value)


def test_another_version_behind_the_same_name_is_refused(tmp_path: Path) -> None:
    a, b = put(tmp_path / "a", JUDGE), put(tmp_path / "b", JUDGE, ("gpt-4.1-y",))
    with pytest.raises(ConfigError, match=r"answered by gpt-4\.1-x in .* and by gpt-4\.1-y in"):
        compare_runs(a, b)
    # What is not known is not held against a run: lines of an earlier version name no model.
    for spec, models in ((JUDGE, ()), (None, ("gpt-4.1-x",))):
        unknown = put(tmp_path / f"c{len(models)}", spec, models)
        assert compare_runs(a, unknown)["tasks"] == 1


def test_measures_with_other_models_are_refused(tmp_path: Path) -> None:
    clip = {"protocol": "magicbrush", "split": "test", "models": {"clip": "base"}}
    a, b = put(tmp_path / "a", clip, ()), put(tmp_path / "b", {**clip, "models": {"clip": "large"}}, ())
    with pytest.raises(ConfigError, match=r"models\.clip=base"):
        compare_runs(a, b)
