from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentfly.provenance import record_environment
from agentfly.viewer.runs.facts import Origin, Settings, differences, origin_of, read_object, settings_of
from agentfly.viewer.runs.folder import Kind, RunFolder


def training(folder: Path, text: str) -> RunFolder:
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return RunFolder(folder, "training", "run")


def test_settings_are_dotted_names_with_values(tmp_path: Path) -> None:
    run = training(tmp_path, "a: {b: 1, c: [x, y], d: null, e: {}}\ntrainer: {total_training_steps: 8}\n")
    found = settings_of(run)
    assert found.values == {"a.b": "1", "a.c": "x, y", "a.d": "null", "a.e": "{}", "trainer.total_training_steps": "8"}
    assert found.get("a.d", "a.b") == "1"
    assert found.files == ("config.yaml",)


def test_secrets_are_asterisks(tmp_path: Path) -> None:
    run = training(
        tmp_path,
        "agentfly: {evaluator: {api_key: sk-1234567, url: 'https://me:hidden@host/v1?token=abcdef'}, "
        "environment: {WANDB_API_KEY: w-1234567}}\ncommand: [serve, --api-key, k-1234567]\n",
    )
    text = str(settings_of(run).values)
    for secret in ("sk-1234567", "hidden", "abcdef", "w-1234567", "k-1234567"):
        assert secret not in text
    assert "***" in text


@pytest.mark.parametrize(
    ("text", "problem"),
    [("a: [", "config.yaml cannot be read"), ("- 1\n", "holds no settings"), ("[" * 3000, "cannot be read")],
)
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path, text: str, problem: str) -> None:
    found = settings_of(training(tmp_path, text))
    assert found.values == {}
    assert problem in found.problem


def test_a_few_lines_that_stand_for_millions_of_values_are_cut(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    found = settings_of(training(tmp_path, "\n".join(lines)))
    assert len(found.values) <= 5000
    assert "more than 5000 settings" in found.problem


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    run = training(tmp_path, "a: 1\n")
    assert settings_of(run).values == {"a": "1"}
    (tmp_path / "config.yaml").write_text("a: 222\n")
    assert settings_of(run).values == {"a": "222"}


@pytest.mark.parametrize("kind", ["chains", "evaluation", "trial", "quickstart"])
def test_a_run_without_files_of_settings_has_none(tmp_path: Path, kind: Kind) -> None:
    found = settings_of(RunFolder(tmp_path, kind, "run"))
    assert (found.values, found.problem) == ({}, "")


def test_a_quickstart_has_its_own_settings_and_those_of_its_training(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "quickstart.json").write_text('{"seed": 3}')
    (tmp_path / "training" / "config.yaml").write_text("agentfly: {seed: 3}\n")
    found = settings_of(RunFolder(tmp_path, "quickstart", "run"))
    assert found.values == {"quickstart.seed": "3", "agentfly.seed": "3"}


def test_the_origin_is_what_the_run_recorded(tmp_path: Path) -> None:
    record_environment(tmp_path)
    found = origin_of(RunFolder(tmp_path, "evaluation", "run"), {})
    assert "numpy" in found.versions
    assert found.facts["Python"].startswith("3.")
    assert found.starts == 1


def test_the_versions_of_a_quickstart_come_from_its_summary(tmp_path: Path) -> None:
    found = origin_of(RunFolder(tmp_path, "quickstart", "run"), {"versions": {"torch": "2.9"}})
    assert found.versions == {"torch": "2.9"}
    assert found.facts == {}


def test_what_both_runs_have_differs_first() -> None:
    mine = Settings({"only": "1", "lr": "0.1", "same": "s"})
    other = Settings({"lr": "0.2", "same": "s"})
    code = Origin({"torch": "2.8"}, {"commit": "a", "started": "1"})
    theirs = Origin({"torch": "2.9"}, {"commit": "a", "started": "2"})
    found = [(d.name, d.mine, d.other) for d in differences(mine, other, code, theirs)]
    assert found == [("lr", "0.1", "0.2"), ("version of torch", "2.8", "2.9"), ("only", "1", "")]


def test_json_that_is_no_object_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    assert read_object(path) == {}
    for text in ("[1]", "{", json.dumps("x"), '{"a":' * 5000):
        path.write_text(text)
        assert read_object(path) == {}
