"""Verdicts of people in the forms in which they are published, and what is no such form."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.datasets.public.preferences import load_preferences
from agentfly.errors import ConfigError, DatasetError, ImageError
from agentfly.evaluation.calibration.people import people_material
from agentfly.images.store import handle_of

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(colour: str) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def editreward_row(**changes: Any) -> dict[str, Any]:
    images = {"source_image": png("white"), "candidate_1": png("red"), "candidate_2": png("blue")}
    row = {"id": "7_0", "dataset": "3pair", "instruction": "Paint it.", "comparison_type": "AvsC", "ranking": "C>A"}
    return {**row, **images, **changes}


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
    return folder


def test_editreward_bench_keeps_comparisons_of_three_together_and_pairs_apart(tmp_path: Path) -> None:
    rows = [
        editreward_row(),
        editreward_row(id="7_1", comparison_type="AvsB", ranking="A>B"),
        editreward_row(id="7_2", dataset="2pair", comparison_type="AvsB", ranking="A=B"),
    ]
    found = list(load_preferences("editreward-bench", root=write(tmp_path, rows)))
    assert [one.preferred for one in found] == [0.0, 1.0, 0.5]
    assert found[0].comparison == found[1].comparison == "3pair/7"
    assert found[2].comparison == ""
    material = people_material("bench", found)
    # A of the first two rows is one result.
    assert len(material.items) == 5
    sample = material.items[0].make()
    assert sample.result is not None
    assert sample.result.getpixel((0, 0)) == (255, 0, 0)


def test_editscore_bench_has_the_better_one_first_and_only_overall_verdicts_count(tmp_path: Path) -> None:
    row: dict[str, Any] = {"key": ["a", "b"], "task_type": "add", "instruction": "Add.", "input_image": png("white")}
    row |= {"output_images": [png("red"), png("blue")], "dimension": "overall"}
    folder = write(tmp_path, [row, {**row, "dimension": "consistency"}])
    [found] = load_preferences("editscore-bench", root=folder)
    assert (found.preferred, found.task_type, [key for key, _ in found.results]) == (1.0, "add", ["a", "b"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (editreward_row(ranking="B>A"), "row 0: ranking 'B>A' does not fit 'AvsC'"),
        ({"id": "1"}, "row 0: lacks column dataset, instruction"),
    ],
)
def test_a_row_that_is_no_verdict_is_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        list(load_preferences("editreward-bench", root=write(tmp_path, [row])))


def rated(folder: Path, **changes: Any) -> Path:
    paths = {}
    for colour in ("white", "red", "blue"):
        paths[colour] = folder / f"{colour}.png"
        paths[colour].write_bytes(png(colour)["bytes"])

    def result(colour: str) -> dict[str, str]:
        return {"image": handle_of(Image.open(paths[colour])), "path": str(paths[colour])}

    row = {
        "format": "agentfly.calibration/1",
        "task": "t",
        "task_type": "named",
        "instruction": "Paint it.",
        "source": handle_of(Image.open(paths["white"])),
        "source_path": str(paths["white"]),
        "human_preference": 0.0,
        "results": [result("red"), result("blue")],
    }
    file = folder / "ratings.jsonl"
    single = {**row, "human_score": 40.0, "results": [result("red")]}
    del single["human_preference"]
    lines = [{**row, **changes}, single, {**row, "source_path": ""}]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return file


def test_ratings_of_the_viewer_are_pairs_and_scores_of_the_same_results(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    material = people_material("mine", load_preferences(rated(tmp_path)))
    assert f"1 verdicts of {tmp_path / 'ratings.jsonl'} are left out: their images were gone" in caplog.text
    assert len(material.pairs) == 1
    assert [item.worth for item in material.items] == [0.4, None]
    assert material.items[1].make().result is not None


def test_an_image_that_is_not_the_rated_one_is_not_read_for_it(tmp_path: Path) -> None:
    """A foreign file of ratings must not have other images of this person scored."""
    file = rated(tmp_path)
    (tmp_path / "red.png").write_bytes(png("green")["bytes"])
    material = people_material("mine", load_preferences(file))
    with pytest.raises(ImageError, match="is not the image that was rated"):
        material.items[0].make()


def test_other_lines_and_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="line 1: is no row of agentfly"):
        list(load_preferences(rated(tmp_path, format="agentfly.rating/1")))
    with pytest.raises(ConfigError, match="Did you mean 'editreward-bench'"):
        list(load_preferences("editrewardbench"))
