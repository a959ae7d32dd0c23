"""`agentfly data`: what it prints, writes, and ends with."""

from __future__ import annotations

import io
import json
import os
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentfly.cli import app, main
from agentfly.datasets import load_tasks
from agentfly.errors import ConfigError, printable
from tests.unit.datasets.example_images import make_image
from tests.unit.hostile import EVERYTHING, HOSTILE, assert_tame

STICKERS = ["stickers", "--limit", "3", "--set", "side=96", "--split", "heldout"]


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    make_image().save(tmp_path / "a.png")
    rows = [{"instruction": "A.", "image": "a.png", "target": "a.png"}, {"instruction": "[B]", "image": "b.png"}]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_check_of_sound_data() -> None:
    code, output = run("check", *STICKERS)
    assert code == 0
    assert "named" in output
    assert "3 masks read as: white marks what changes" in output
    assert "3 rows, no problems" in output


def test_check_names_row_and_reason(broken: Path) -> None:
    code, output = run("check", str(broken))
    assert code == 1
    assert "t.jsonl line 1: the target equals the image" in output
    assert "t.jsonl line 2: no image file at" in output
    assert "2 rows, 2 problems" in output


def test_check_as_json(broken: Path) -> None:
    code, output = run("check", str(broken), "--json")
    report = json.loads(output)
    assert (code, report["ok"], report["rows"]) == (1, False, 2)
    assert [problem["kind"] for problem in report["problems"]] == ["target", "image"]


# Rows cannot hold halves of surrogate pairs, which one of the others has.
KEPT = EVERYTHING.encode("utf-8", "ignore").decode()


@pytest.mark.parametrize("hostile", [*HOSTILE, KEPT])
def test_check_shows_rows_whatever_is_in_them(hostile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "600")
    make_image().save(tmp_path / "a.png")
    rows = [{"instruction": "A.", "image": image, "task_type": hostile} for image in ("a.png", "b.png")]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    code, output = run("check", str(path))
    # A row with half of a surrogate pair cannot be kept in UTF-8.
    problems = 2 if any("\ud800" <= char <= "\udfff" for char in hostile) else 1
    assert (code, f"2 rows, {problems} problems" in output) == (1, True)
    listed = run("check", str(path), "--json")[1]
    assert json.loads(listed)["rows"] == 2
    assert printable(listed) == listed
    if hostile == KEPT:
        assert_tame(output)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "A.", "image": "../a.png"},
        {"words, in English": "A.", "image": "sub/a.png"},
        {"instruction": "A.", "before's": "sub/a.png"},
    ],
)
def test_the_fix_that_check_prints_is_taken_as_it_stands(tmp_path: Path, row: dict[str, str]) -> None:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "data" / "sub"):
        make_image().save(folder / "a.png")
    path = tmp_path / "data" / "t.jsonl"
    path.write_text(json.dumps(row))
    code, output = run("check", str(path))
    assert code == 1
    fix, _, others = output.partition("--set ")[2].partition(" (`agentfly data`), ")
    assert run("check", str(path), *shlex.split(f"--set {fix}"))[0] == 0
    # And so are those for the other places.
    name, given = shlex.split(others.partition(" (`agentfly eval`)")[0])
    assert name == "--data-options"
    assert len(list(load_tasks(path, **json.loads(given)))) == 1


def test_options_may_be_written_as_in_a_recipe(tmp_path: Path) -> None:
    make_image().save(tmp_path / "a.png")
    (tmp_path / "t.jsonl").write_text('{"prompt": "A.", "image": "a.png"}')
    assert run("check", str(tmp_path / "t.jsonl"), "--set", "columns={instruction: prompt}")[0] == 0


@pytest.mark.parametrize("images", ["bytes", "paths"])
def test_convert_writes_what_is_read_back(tmp_path: Path, images: str) -> None:
    code, _ = run("convert", *STICKERS, "--out", str(tmp_path), "--name", "val", "--images", images)
    assert code == 0
    assert (tmp_path / "val.images").exists() == (images == "paths")
    wanted = [task.id for task in load_tasks("stickers", split="heldout", limit=3, side=96)]
    assert [task.id for task in load_tasks(tmp_path / "val.parquet")] == wanted


def test_tasks_without_images_are_sound_where_they_are_meant(tmp_path: Path) -> None:
    file, out = tmp_path / "words.jsonl", tmp_path / "ready"
    file.write_text(json.dumps({"id": "q1", "instruction": "What is 1 + 2?", "answer": 3}))
    assert run("check", str(file))[0] == 1
    code, output = run("check", str(file), "--set", "text_only=true")
    assert (code, "1 rows, no problems" in output) == (0, True)
    assert run("convert", str(file), "--out", str(out), "--set", "text_only=true")[0] == 0
    # The file says it by itself.
    [task] = load_tasks(next(out.glob("*.parquet")))
    assert (task.id, task.images, task.metadata) == ("q1", (), {"answer": 3})


def test_options_must_have_values() -> None:
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        run("check", "stickers", "--set", "side")


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_name_that_is_no_text_is_printed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:
    make_image().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"T\xfcr.png"))
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="utf-8", write_through=True))
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", str(tmp_path), *form])
    assert ended.value.code == 1
    text = printed.getvalue().decode()
    assert ("T\\udcfcr.png" if form else "T\ufffdr.png") in text
    if form:
        assert json.loads(text)["problems"][0]["where"] == "T\udcfcr.png"


def test_columns_of_any_number_and_length_make_a_short_message(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"x" * 50_000: 1, **dict.fromkeys(map(str, range(500)), 1)}))
    code, output = run("check", str(tmp_path / "t.jsonl"))
    assert code == 1
    assert len(output) < 3000
    assert "and 461 more" in output
