"""Protocols by command: a GEdit-shaped file, a scripted judge, the table, and the refusal of another judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evaluation.protocols.authors import gedit_prompts, grey, imgedit_prompts, rise_prompts, words_of, write
from tests.unit.evaluation.test_commands import AGENT, STICKERS, command, done, gedit, one_line, summary
from tests.unit.evaluators.scripted_judge import Reply, judge, serving


def opinion(request: dict[str, Any], number: int) -> Reply:
    """Semantics by the task; quality 9 and 4."""
    words = words_of(request)[0]
    if "QUALITY" in words:
        return Reply('{"score": [9, 4], "reasoning": "r"}')
    first = {"Edit a.": 9, "Edit b.": 1, "Edit c.": 4}[words.partition(" of ")[2]]
    return Reply(f'{{"score": [{first}, 10], "reasoning": "r"}}')


@pytest.mark.slow
def test_gedit_runs_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, prompts = gedit(tmp_path / "gedit"), gedit_prompts(tmp_path / "prompts")
    out, again = tmp_path / "run", tmp_path / "again"
    with judge(opinion) as vlm:
        vlm.models = serving("gpt-4.1", "mine")
        place = f"base_url={vlm.base_url},input_price=1.0,output_price=10.0"
        common = ["--root", root, "--protocol-root", prompts]
        run = ["eval", "--protocol", "gedit", *common, "--agent", AGENT, "--out", out, "--judge"]
        printed = done(*run, place)
        asked = len(vlm.requests)
        # A finished run is shown again without the judge.
        done(*run, place)
        assert len(vlm.requests) == asked == 6
        other = f"mine,{place}"
        done("replay", out, "--protocol", "gedit", "--protocol-root", prompts, "--judge", other, "--out", again)
        assert {request["model"] for request in vlm.requests[asked:]} == {"mine"}
    found = summary(out)
    # By hand: sqrt(9 * 4) = 6, sqrt(1 * 4) = 2 and sqrt(4 * 4) = 4; types (6 + 2) / 2 and 4.
    figures = {(f["name"], f["group"]): f["mean"] for f in found["protocol"]["figures"]}
    assert figures["overall", None] == 4.0
    assert figures["semantics", None] == (5 + 4) / 2
    assert figures["quality", None] == 4.0
    assert figures["overall", "subject-remove"] == 4.0
    assert found["all"]["scores"]["gedit"]["score"]["mean"] == 40.0
    assert found["evaluators"] == ["gedit"]
    facts = found["protocol"]["judge"]
    assert (facts["model"], facts["authors"], facts["answered_by"]) == ("gpt-4.1", "gpt-4.1", ["m"])
    assert len(facts["dates"]) == 1
    assert found["protocol"]["whole"] is False
    assert found["all"]["judge"]["gedit"]["cost"] == pytest.approx(6 * 2000 / 1e6)
    assert "## GEdit-Bench by its own protocol" in printed
    assert "| overall | **all** | 4.000 [" in printed
    assert "this is not the whole benchmark" in printed
    settings = json.loads((out / "settings.json").read_text())
    assert settings["evaluator"]["gedit"]["judge"]["model"] == "gpt-4.1"
    assert str(prompts) not in json.dumps(settings)
    page = (again / "summary.md").read_text()
    assert "the authors judge by gpt-4.1: figures of another judge stand beside no published one" in page
    said = one_line(monkeypatch, capsys, "compare", out, again)
    assert "gedit is not the same in both runs (judge.model=gpt-4.1" in said


def test_imgedit_runs_from_a_clone(tmp_path: Path) -> None:
    clone = imgedit_prompts(tmp_path / "clone")
    entries = {"7": {"id": "a.png", "prompt": "Make it red.", "edit_type": "adjust"}}
    write(clone, "Benchmark/Basic/basic_edit.json", json.dumps(entries))
    grey(9, (64, 48)).save(clone / "Benchmark/Basic/a.png")
    with judge(Reply("A: 4\nB: 3")) as vlm:
        run = ["eval", "--protocol", "imgedit", "--root", clone, "--protocol-root", clone, "--agent", AGENT]
        done(*run, "--judge", f"m,base_url={vlm.base_url}", "--out", tmp_path / "run")
    figures = summary(tmp_path / "run")["protocol"]["figures"]
    assert [(f["name"], f["group"], f["mean"]) for f in figures] == [
        ("mean of all samples", None, 3.5),
        ("score", "adjust", 3.5),
    ]


def test_tasks_that_lack_their_reference_end_a_run_before_the_agent_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"index": "1", "category": "causal_reasoning", "instruction": "Drop it.", "image": "a.png"}
    root = write(rise_prompts(tmp_path / "clone"), "data/data_total.json", json.dumps([entry]))
    grey(9, (64, 48)).save(root / "data/a.png")
    run = ["eval", "--protocol", "risebench", "--root", root / "data", "--protocol-root", root, "--agent", AGENT]
    said = one_line(monkeypatch, capsys, *run, "--judge", "m,base_url=http://127.0.0.1:9/v1", "--out", tmp_path / "o")
    assert "none of the first 1 tasks can be scored: the task has no reference" in said
    assert not (tmp_path / "o" / "trajectories.jsonl").exists()


def test_magicbrush_measures_its_test_split_without_a_model(tmp_path: Path) -> None:
    root = tmp_path / "test"
    write(root, "edit_sessions.json", json.dumps({"1": [{"input": "1-input.png", "instruction": "darken"}]}))
    (root / "images/1").mkdir(parents=True)
    grey(102, (64, 48)).save(root / "images/1/1-input.png")
    grey(0, (64, 48)).save(root / "images/1/1-output1.png")
    options = json.dumps({"metrics": ["l1", "l2"]})
    run = ["eval", "--protocol", "magicbrush", "--root", root, "--protocol-options", options, "--agent", AGENT]
    done(*run, "--out", tmp_path / "run")
    found = summary(tmp_path / "run")["protocol"]
    l1, l2 = (figure["mean"] for figure in found["figures"])
    # The agent darkens a grey: between the source and black.
    assert 0 < l1 < 0.4
    assert l2 == pytest.approx(l1**2, rel=0.02)
    assert found["models"]["metrics"] == ["l1", "l2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--protocol", "gedti"], "Did you mean 'gedit'"),
        (["--protocol", "gedit", "--split", "fr"], "unknown split of gedit 'fr'"),
        (["--protocol", "gedit", "--data", "stickers"], "has the data set gedit-bench: leave --data out"),
        (["--protocol", "gedit", "--protocol-root", "."], "has no GEdit-Bench/viescore/vie_prompts.py"),
        (
            ["--protocol", "gedit", "--protocol-root", "P", "--judge", "m,passes=3"],
            "--judge passes: the protocol",
        ),
        (["--protocol", "magicbrush", "--judge", "m"], "is measured, not judged"),
        (["--protocol", "gedit", "--protocol-options", "{}"], "has no GEdit-Bench"),
        (["--data", "stickers", "--judge", "m"], "belong to a --protocol"),
        (["--protocol", "imgedit", "--protocol-root", "P"], "has no Benchmark/Basic/prompts.json"),
        (["--protocol", "magicbrush"], "the test split of magicbrush is not on the hub"),
    ],
)
def test_what_a_protocol_lacks_is_one_line_and_no_folder_is_left(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    gedit_prompts(tmp_path / "P")
    more = ["--protocol-root", "."] if "--protocol-root" not in arguments and "gedit" in arguments else []
    said = one_line(monkeypatch, capsys, "eval", *arguments, *more, "--agent", AGENT, "--out", "o")
    assert words in said
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_repeats_by_command(tmp_path: Path) -> None:
    run = ["eval", *STICKERS, "--agent", AGENT, "--limit", 3, "--out", tmp_path / "run"]
    printed = done(*run, "--repeats", 2)
    found = summary(tmp_path / "run")["all"]
    assert (found["tasks"], found["attempts"]) == (3, 6)
    assert found["repeats"]["reference"]["tasks_at"] == {"1": 3, "2": 3}
    assert found["repeats"]["reference"]["variance_within"] == 0.0
    assert "## Repeats" in printed
    assert "| point of reference |" in printed or found["cost"]["point"] is None
    # More attempts later: only those that are new run.
    done(*run, "--repeats", 3)
    assert len((tmp_path / "run" / "trajectories.jsonl").read_text().splitlines()) == 9
    assert command("compare", tmp_path / "run", tmp_path / "run").exit_code == 0
