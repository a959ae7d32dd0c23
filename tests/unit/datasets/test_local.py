"""Your own data: lines, tables and folders, and nothing from outside of them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from agentfly.datasets import StickerWorld, check_rows, load_tasks, task_rows, tasks_to_dataset
from agentfly.errors import DatasetError
from agentfly.images import handle_of, load_image
from agentfly.training.recipe.verl_dataset import write_rows
from tests.unit.datasets.example_images import cell, encoded, make_image, write_parquet
from tests.values import loaded

NAN = float("nan")


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "sub/b.png", "a.target.png", "a.mask.png")):
        make_image(number).save(home / name)
    make_image(9).save(tmp_path / "secret.png")
    return home


@pytest.mark.parametrize("split", [None, "home"])
def test_a_folder_named_from_where_one_stands(folder: Path, split: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a.txt").write_text("Remove it.")
    (folder / "sub" / "b.txt").write_text("Darken it.")
    monkeypatch.chdir(folder.parent)
    tasks = list(load_tasks("./home" if split is None else Path("."), split=split))
    assert [task.id for task in tasks] == ["a", "sub/b"]
    monkeypatch.chdir(folder)
    assert handle_of(loaded(tasks[0].target)) == handle_of(make_image(2))


def test_lines_with_all_fields(folder: Path) -> None:
    row = {
        "id": "x",
        "instruction": " Do it. ",
        "images": ["a.png", "sub/b.png"],
        "target": "a.target.png",
        "mask": "a.mask.png",
        "task_type": "add",
        "metadata": {"source_caption": "a cat"},
        "author": "me",
    }
    (task,) = load_tasks(lines(folder / "tasks.jsonl", row))
    assert (task.id, task.instruction, task.task_type) == ("x", "Do it.", "add")
    assert task.metadata == {"source_caption": "a cat", "author": "me"}
    handles = [handle_of(loaded(image)) for image in (*task.images, task.target, task.mask)]
    assert handles == [handle_of(make_image(number)) for number in (0, 1, 2, 3)]


def test_lines_with_the_least(folder: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode(encoded(make_image(5))).decode()
    path = lines(folder / "t.jsonl", {"instruction": "A.", "image": "a.png"}, "", {"instruction": "B.", "image": uri})
    one, two = load_tasks(str(path))
    assert (one.id, two.id, one.task_type, one.target) == ("t-1", "t-3", "edit", None)
    assert handle_of(load_image(two.images[0])) == handle_of(make_image(5))


def test_a_broken_line_is_named(folder: Path) -> None:
    path = lines(folder / "t.jsonl", {"instruction": "A.", "image": "a.png"}, "{oops")
    with pytest.raises(DatasetError, match=r"t\.jsonl line 2: not JSON"):
        list(load_tasks(path))


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.png"}, "lacks an instruction; it has image.*columns="),
        ({"instruction": "A."}, "lacks an image"),
        ({"instruction": "A.", "images": []}, "lacks an image"),
        ({"instruction": "A.", "image": 7}, "given as int"),
        ({"instruction": "A.", "image": "a\0.png"}, "can be no path of an image"),
        ({"instruction": "A.", "image": ""}, "lacks an image"),
        ({"instruction": NAN, "image": "a.png"}, "lacks an instruction"),
        ({"instruction": "A.", "image": "a.png", "metadata": "{"}, "metadata is not JSON"),
        ({"instruction": "A.", "image": "a.png", "metadata": [1]}, "metadata must be an object"),
        ([1], "must be a JSON object"),
        ({"instruction": "A.", "image": "a.png", "x": nested(60)}, "nested more than 50 deep"),
        ({"instruction": "A.", "image": "a.png", "metadata": json.dumps(nested(60))}, "metadata is nested more than"),
    ],
)
def test_what_is_missing_is_said(folder: Path, row: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        list(load_tasks(lines(folder / "t.jsonl", row)))


@pytest.mark.parametrize(
    "row",
    [
        {"image": "a.png", "images": []},
        {"image": "a.png", "images": None},
        {"image": "a.png", "images": NAN},
        {"image": "a.png", "mask": "", "target": ""},
        {"image": "a.png", "mask": None, "target": NAN, "id": NAN, "task_type": NAN, "score": NAN, "metadata": NAN},
        {"image": "a.png", "mask": {"bytes": None, "path": None}, "target": {"bytes": "", "path": ""}},
        {"image": {"bytes": b"", "path": "a.png"}},
        {"image": {"bytes": None, "path": "a.png"}},
        {"image": {"path": "", "url": "a.png"}},
        {"image": {"url": "a.png"}},
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_cells_that_are_empty_in_any_form_are_missing(folder: Path, row: dict[str, Any], kind: str) -> None:
    row = {"instruction": "A.", **row}
    if kind == "jsonl":
        if isinstance(row["image"], dict) and row["image"].get("bytes") == b"":
            row["image"]["bytes"] = ""
        path = lines(folder / "t.jsonl", row)
    else:
        path = write_parquet(folder / "t.parquet", [row])
    (task,) = load_tasks(path)
    assert [handle_of(load_image(image)) for image in task.images] == [handle_of(make_image(0))]
    assert (task.target, task.mask, task.task_type, task.metadata) == (None, None, "edit", {})
    assert task.id in ("t-1", "t-0")


def test_bytes_are_read_as_base64_from_lines_and_as_they_are_from_tables(folder: Path) -> None:
    text = base64.b64encode(encoded(make_image(5))).decode()
    for path in (
        lines(folder / "t.jsonl", {"instruction": "A.", "image": {"bytes": text, "path": None}}),
        write_parquet(folder / "t.parquet", [{"instruction": "A.", "image": cell(make_image(5))}]),
    ):
        (task,) = load_tasks(path)
        assert handle_of(load_image(task.images[0])) == handle_of(make_image(5))


def test_an_address_in_a_mapping_needs_trust_too(folder: Path) -> None:
    path = lines(folder / "t.jsonl", {"instruction": "A.", "image": {"url": "http://127.0.0.1:9/x.png"}})
    with pytest.raises(DatasetError, match="by URL"):
        list(load_tasks(path))
    (task,) = load_tasks(path, allow_outside=True)
    assert task.images == ("http://127.0.0.1:9/x.png",)


def test_metadata_keeps_what_is_zero_or_empty(folder: Path) -> None:
    row = {"instruction": "A.", "image": "a.png", "metadata": {"n": 0, "s": ""}, "count": 0, "flag": False}
    (task,) = load_tasks(lines(folder / "t.jsonl", row))
    assert task.metadata == {"n": 0, "s": "", "count": 0, "flag": False}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_instruction_beside_an_image_is_read_in_its_encoding(folder: Path, encoding: str) -> None:
    (folder / "a.txt").write_bytes("Entferne die Tür.".encode(encoding))
    (folder / "sub" / "b.txt").write_text("B.")
    assert next(iter(load_tasks(folder))).instruction == "Entferne die Tür."


def test_rows_in_latin1_are_named_and_the_others_are_checked(folder: Path) -> None:
    (folder / "a.txt").write_bytes("Entferne die Tür.".encode("latin-1"))
    (folder / "sub" / "b.txt").write_text("B.")
    (problem,) = check_rows(task_rows(folder)).problems
    assert (problem.where, problem.kind) == ("a.png", "row")
    assert "a.txt is no UTF-8 text (byte 0xfc at place 14): save it as UTF-8" in problem.reason
    rows = '{"instruction": "A.", "image": "a.png"}\n{"instruction": "Tür", "image": "a.png"}\n'
    (folder / "t.jsonl").write_bytes(rows.encode("latin-1"))
    (problem,) = check_rows(task_rows(folder / "t.jsonl")).problems
    assert problem.where == "t.jsonl line 2"
    assert "save it as UTF-8" in problem.reason


@pytest.mark.parametrize(
    "form", ["../secret.png", "sub/../../secret.png", "ABSOLUTE", "link.png", "file:///etc/passwd"]
)
def test_images_from_outside_are_refused(folder: Path, form: str) -> None:
    secret = folder.parent / "secret.png"
    (folder / "link.png").symlink_to(secret)
    name = str(secret) if form == "ABSOLUTE" else form
    for field in ("image", "target", "mask"):
        row = {"instruction": "A.", "image": "a.png", field: name}
        with pytest.raises(DatasetError, match="--set allow_outside=true"):
            list(load_tasks(lines(folder / "t.jsonl", row)))


def test_images_from_outside_are_read_when_told_so(folder: Path) -> None:
    path = lines(folder / "t.jsonl", {"instruction": "A.", "image": "../secret.png"})
    (task,) = load_tasks(path, allow_outside=True)
    assert handle_of(load_image(task.images[0])) == handle_of(make_image(9))


def test_urls_are_refused(folder: Path) -> None:
    path = lines(folder / "t.jsonl", {"instruction": "A.", "image": "http://127.0.0.1:9/x.png"})
    with pytest.raises(DatasetError, match="by URL"):
        list(load_tasks(path))


def test_columns_can_be_named(folder: Path) -> None:
    path = lines(folder / "t.jsonl", {"prompt": "A.", "before": "a.png", "after": "sub/b.png"})
    (task,) = load_tasks(path, columns={"instruction": "prompt", "image": "before", "target": "after"})
    assert task.instruction == "A."
    assert task.metadata == {}
    assert handle_of(loaded(task.target)) == handle_of(make_image(1))


def test_our_own_parquet_comes_back(tmp_path: Path) -> None:
    tasks = [StickerWorld(96).task(index, "train") for index in range(3)]
    path = tmp_path / "tasks.parquet"
    tasks_to_dataset(tasks).to_parquet(str(path))
    for back, task in zip(load_tasks(path), tasks, strict=True):
        assert (back.id, back.instruction, back.task_type, back.metadata) == (
            task.id, task.instruction, task.task_type, task.metadata,
        )  # fmt: skip
        assert handle_of(loaded(back.mask)) == handle_of(loaded(task.mask))


def test_plain_parquet(tmp_path: Path) -> None:
    make_image(1).save(tmp_path / "t.png")
    rows = [{"instruction": "A.", "image": cell(make_image()), "target": "t.png", "size": 3}]
    (task,) = load_tasks(write_parquet(tmp_path / "plain.parquet", rows, ("image",)))
    assert (task.id, task.metadata) == ("plain-0", {"size": 3})
    assert handle_of(loaded(task.target)) == handle_of(make_image(1))


def test_what_training_reads_is_read_here_too(tmp_path: Path) -> None:
    tasks = [StickerWorld(96).task(index, "train") for index in range(2)]
    path = write_rows(tasks, tmp_path, "train", images="paths")
    write_rows(tasks[:1], tmp_path, "test")
    assert [task.id for task in load_tasks(path)] == [task.id for task in tasks]
    assert [task.id for task in load_tasks(tmp_path, split="test")] == [tasks[0].id]
    with pytest.raises(DatasetError, match="name a split: test, train"):
        load_tasks(tmp_path)


def test_a_folder_of_images_with_words_beside_them(folder: Path) -> None:
    (folder / "a.txt").write_text("Do A.\n")
    (folder / "sub/b.txt").write_text("Do B.")
    one, two = load_tasks(folder)
    assert (one.id, one.instruction, two.id, two.target) == ("a", "Do A.", "sub/b", None)
    assert handle_of(loaded(one.target)) == handle_of(make_image(2))
    assert handle_of(loaded(one.mask)) == handle_of(make_image(3))


def test_companion_files_of_macos_are_skipped(folder: Path) -> None:
    (folder / "a.txt").write_text("Remove it.")
    (folder / "sub" / "b.txt").write_text("Darken it.")
    for name in ("._a.png", "sub/._b.png", "._a.txt", "._train.jsonl", "._train.parquet"):
        (folder / name).write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
    assert [task.id for task in load_tasks(folder)] == ["a", "sub/b"]


def test_an_image_without_words_is_named(folder: Path) -> None:
    (folder / "a.txt").write_text("Do A.")
    with pytest.raises(DatasetError, match=r"sub/b\.png: has no instruction: write it into b\.txt"):
        list(load_tasks(folder))


def test_words_from_outside_are_refused(folder: Path) -> None:
    (folder.parent / "secret.txt").write_text("a password")
    (folder / "a.txt").symlink_to(folder.parent / "secret.txt")
    with pytest.raises(DatasetError, match="outside"):
        list(load_tasks(folder))


def test_a_folder_as_datasets_keeps_it(folder: Path) -> None:
    home = folder / "test"
    folder.rename(home.parent.with_name("kept"))
    kept = home.parent.with_name("kept")
    (kept / "test").mkdir()
    make_image(4).save(kept / "test/c.png")
    row = {"file_name": "c.png", "instruction": "Do C.", "mask_file_name": "c.png"}
    lines(kept / "test/metadata.jsonl", row)
    (task,) = load_tasks(kept, split="test")
    assert task.instruction == "Do C."
    assert handle_of(loaded(task.mask)) == handle_of(make_image(4))


@pytest.mark.parametrize(("name", "message"), [("x.csv", "cannot read tasks"), ("gone.jsonl", "no file or folder")])
def test_other_files_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "x.csv").write_text("a,b")
    with pytest.raises(DatasetError, match=message):
        load_tasks(tmp_path / name)


def test_empty_folders_and_unknown_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no images"):
        load_tasks(tmp_path)
    with pytest.raises(DatasetError, match="neither a folder dev/"):
        load_tasks(tmp_path, split="dev")


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DatasetError, match=r"cannot read .*x\.parquet"):
        list(load_tasks(tmp_path / "x.parquet"))
