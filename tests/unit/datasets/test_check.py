"""`check_rows` says which row is wrong and why, and goes on to the next one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agentfly.datasets import CheckReport, EditTask, check_rows, task_rows
from agentfly.datasets.rows import task_to_row
from agentfly.datasets.task import TaskRow
from tests.unit.datasets.example_images import SIZE, encoded, make_image

MASK = Image.new("L", SIZE, 255)
SOUND: dict[str, Any] = {
    "id": "a",
    "instruction": "Do it.",
    "images": (make_image(),),
    "target": make_image(1),
    "mask": MASK,
    "task_type": "add",
}


def report_of(*changes: dict[str, Any]) -> CheckReport:
    def maker(change: dict[str, Any]) -> Callable[[], EditTask]:
        return lambda: EditTask(**{**SOUND, **change})

    return check_rows(TaskRow(f"row {number}", maker(change)) for number, change in enumerate(changes))


def test_a_sound_row_is_counted() -> None:
    report = report_of({}, {"id": "b", "target": None})
    assert report.ok
    summary = report.by_type["add"]
    assert (summary.tasks, summary.with_target, summary.with_mask, summary.faulty) == (2, 1, 2, 0)


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"instruction": "  "}, "instruction", "empty"),
        ({"id": ""}, "id", "empty"),
        ({"images": ()}, "image", "no image"),
        ({"images": (b"GIF89a...",)}, "image", "broken or cut off"),
        ({"images": (b"<svg/>",)}, "image", "an SVG drawing"),
        ({"images": (make_image(), b"")}, "image", "image 2: "),
        ({"images": (encoded(make_image())[:60],)}, "image", "broken or cut off"),
        ({"target": make_image()}, "target", "equals the image"),
        ({"target": make_image(1, (48, 16))}, "target", "the target is 48x16, the image 24x16"),
        ({"target": b"?"}, "target", "not an image"),
        ({"mask": Image.new("L", (24, 8), 255)}, "mask", "the mask is 24x8, the image 24x16"),
        ({"mask": Image.new("L", SIZE)}, "mask", "black"),
        ({"mask": make_image()}, "mask", "colour image, not a mask: give a PNG"),
        ({"mask": Image.merge("RGB", [MASK, Image.new("L", SIZE, 9), MASK])}, "mask", "nothing says what stays"),
        ({"metadata": {"x": object()}}, "metadata", "cannot be written as JSON"),
        ({"metadata": {"x": [float("nan")]}}, "metadata", "cannot be written as JSON"),
        (
            {"metadata": {"checks": [{"gone": "cat " * 300}]}},
            "metadata",
            "at least 303 tokens and the detector takes 256",
        ),
        ({"metadata": {"checks": [{"colour": "red", "of": " , ."}]}}, "metadata", "names nothing"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], kind: str, reason: str) -> None:
    report = report_of({"id": "before"}, change, {"id": "after"})
    (problem,) = report.problems
    assert (problem.where, problem.kind) == ("row 1", kind)
    assert reason in problem.reason
    assert (report.rows, report.by_type["add"].tasks, report.by_type["add"].faulty) == (3, 3, 1)


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (2010, 10)])
def test_an_image_that_no_policy_takes_is_named_before_a_run(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    narrow: dict[str, Any] = {"images": (image,), "target": None, "mask": None}
    (problem,) = report_of(narrow).problems
    assert (problem.kind, "more than 200 times" in problem.reason) == ("image", True)
    assert f"{size[0]}x{size[1]}" in problem.reason
    (second,) = report_of({**narrow, "images": (make_image(), image)}).problems
    assert second.reason.startswith("image 2: the image is")
    assert report_of({**narrow, "images": (Image.new("RGB", (2000, 10)),)}).ok


def test_an_image_that_a_detector_has_to_check_is_less_narrow() -> None:
    checks = {"checks": [{"gone": "a dog"}]}
    row = {"images": (Image.new("RGB", (410, 10)),), "target": None, "mask": None}
    assert report_of(row).ok
    (problem,) = report_of({**row, "metadata": checks}).problems
    assert (problem.kind, "more than 40 times" in problem.reason) == ("image", True)
    assert report_of({**row, "images": (Image.new("RGB", (400, 10)),), "metadata": checks}).ok


def test_a_mask_is_counted_by_the_form_that_it_was_taken_for() -> None:
    box = Image.new("L", SIZE)
    box.paste(1, (2, 2, 9, 9))
    hole = make_image().convert("RGBA")
    hole.paste((0, 0, 0, 0), (2, 2, 9, 9))
    masks = (MASK, box, hole, hole.copy(), None, make_image())
    report = report_of(*({"id": str(number), "mask": mask} for number, mask in enumerate(masks)))
    assert report.masks == {
        "white marks what changes": 1,
        "1 marks what changes, 0 what stays": 1,
        "transparent marks what changes, as in OpenAI's API": 2,
    }
    assert report.to_json()["masks"] == report.masks


def test_a_resized_target_is_no_problem() -> None:
    assert report_of({"target": make_image(1, (48, 32))}).ok


def test_ids_must_differ() -> None:
    (problem,) = report_of({}, {"id": "b"}, {}).problems
    assert (problem.where, problem.reason) == ("row 2", "id 'a' is also that of row 0")


def test_nothing_is_not_sound() -> None:
    assert not report_of().ok


def test_rows_that_are_no_tasks_do_not_end_the_check(tmp_path: Path) -> None:
    make_image().save(tmp_path / "a.png")
    good = json.dumps({"instruction": "A.", "image": "a.png"})
    (tmp_path / "t.jsonl").write_text("\n".join([good, "{", '{"image": "a.png"}', '{"instruction": "A."}', good]))
    report = check_rows(task_rows(tmp_path / "t.jsonl"))
    assert report.rows == 5
    assert [problem.where.split()[-1] for problem in report.problems] == ["2", "3", "4"]
    assert json.loads(json.dumps(report.to_json()))["by_type"]["edit"]["tasks"] == 2


TEXTS = ("", "a.png", "m.png", "b.png", "/etc/passwd", "../x", "\ud800", "a\0b", "x" * 5000, "data:,", "file:///x")
ADDRESSES = ("http://xn--/a.png", "http://[::1")
FORMS = ({"bytes": "iVBOR"}, {"bytes": "", "path": "a.png"}, {"url": "a.png"}, {"bytes": [1]}, {"path": {"bytes": "x"}})
CHECKS = {"checks": [{"gone": 5}, 7, {"gone": "cat " * 300}]}
CELLS: list[Any] = [*TEXTS, *ADDRESSES, *FORMS, CHECKS, None, math.nan, math.inf, -1, True, [], {}, [None], [[]]]
FIELDS = ("instruction", "image", "images", "target", "mask", "id", "task_type", "metadata", "checks", "other")


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(CELLS), max_size=5), min_size=1, max_size=8),
    st.booleans(),
)
def test_whatever_the_cells_hold_each_row_is_sound_or_named(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], escaped: bool
) -> None:
    folder = tmp_path_factory.getbasetemp()
    make_image().save(folder / "a.png")
    Image.new("P", SIZE, 1).save(folder / "m.png")
    whole = [{"instruction": "A.", "image": "a.png", **row} for row in rows]
    text = "".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in whole)
    (folder / "t.jsonl").write_bytes(text.encode("utf-8", "surrogatepass"))
    report = check_rows(task_rows(folder / "t.jsonl"))
    assert report.rows == len(rows)
    assert all(len(problem.reason) < 5000 for problem in report.problems)
    json.dumps(report.to_json(), allow_nan=False)
    named = {problem.where for problem in report.problems}
    for row in task_rows(folder / "t.jsonl"):
        if row.where not in named:
            task_to_row(row.task())
