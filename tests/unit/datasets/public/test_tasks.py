"""Public data sets: files with their real columns go through the same code as the hub's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentfly.datasets import EditTask, load_tasks, task_rows
from agentfly.datasets.public.columns import ADAPTERS
from agentfly.errors import ConfigError, DatasetError
from agentfly.images import load_image
from tests.unit.datasets.example_images import SIZE, cell, cutout, make_image, white_box, write_parquet
from tests.values import loaded

BOX = (3, 2, 9, 8)
MASK = cell(cutout(make_image(), BOX))


def magicbrush_row(session: str, turn: int) -> dict[str, Any]:
    return {
        "img_id": session,
        "turn_index": turn,
        "source_img": cell(make_image(turn)),
        "mask_img": cell(cutout(make_image(), (turn, 2, turn + 4, 8))),
        "instruction": f"Change {session}, step {turn}.",
        "target_img": cell(make_image(turn + 1)),
    }


ROWS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "gedit-bench": (
        "data/train-00000-of-00001.parquet",
        {
            "task_type": "subject-remove",
            "key": "3f2a",
            "instruction": "Remove the dog.",
            "instruction_language": "en",
            "input_image": cell(make_image(1)),
            "input_image_raw": cell(make_image(2)),
            "Intersection_exist": True,
        },
        ("input_image", "input_image_raw"),
    ),
    "magicbrush": (
        "data/train-00000-of-00051.parquet",
        magicbrush_row("242679", 1),
        ("source_img", "mask_img", "target_img"),
    ),
    "emu-edit": (
        "data/test-00000-of-00003-64edd860175df28a.parquet",
        {
            "instruction": "Add a hat.",
            "image": cell(make_image(3)),
            "task": "add",
            "split": "test",
            "idx": 17,
            "hash": "b1946ac9",
            "input_caption": "A cat.",
            "output_caption": "A cat with a hat.",
        },
        ("image",),
    ),
    "humanedit": (
        "data/train-00000-of-00034-1d9e.parquet",
        {
            "IMAGE_ID": "0-frDDoQqUw",
            "EDITING_TYPE": "Counting",
            "CORE": 1,
            "MASK": 0,
            "EDITING_INSTRUCTION": "Make it three.",
            "OUTPUT_DESCRIPTION": "Three of them.",
            "INPUT_CAPTION_BY_LLAMA": "Two dogs.",
            "OUTPUT_CAPTION_BY_LLAMA": "Three dogs.",
            "INPUT_IMG": cell(make_image(4)),
            "MASK_IMG": MASK,
            "OUTPUT_IMG": cell(make_image(5)),
        },
        ("INPUT_IMG", "MASK_IMG", "OUTPUT_IMG"),
    ),
    "omniedit": (
        "data/train-00000-of-00571.parquet",
        {
            "omni_edit_id": "task_obj_swap_7",
            "task": "swap",
            "src_img": cell(make_image(6)),
            "edited_img": cell(make_image(7)),
            "edited_prompt_list": ["Swap the cup for a vase.", "Replace the cup with a vase of glass."],
            "width": SIZE[0],
            "height": SIZE[1],
            "o_score": 9.0,
        },
        ("src_img", "edited_img"),
    ),
    "pie-bench++": (
        "3_delete_object_80/V1-00000-of-00001.parquet",
        {
            "image": cell(make_image(8, (512, 512))),
            "id": "311000000001",
            "source_prompt": "a [dog] on a chair",
            "target_prompt": "a chair",
            "edit_action": "{}",
            "aspect_mapping": "{}",
            "blended_words": "[]",
            "mask": "512 3 1024 3",
        },
        ("image",),
    ),
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, (file, row, images) in ROWS.items():
        made[name] = tmp_path_factory.mktemp(name)
        write_parquet(made[name] / file, [row], images)
    return made


def one(name: str, root: Path, **options: Any) -> EditTask:
    (task,) = load_tasks(name, root=root, **options)
    return task


def same(source: Any, wanted: Any) -> bool:
    return bool(np.array_equal(np.asarray(load_image(source)), np.asarray(wanted)))


def test_every_adapter_is_tested() -> None:
    assert ROWS.keys() == ADAPTERS.keys()


@pytest.mark.parametrize(
    ("name", "id", "task_type", "instruction"),
    [
        ("gedit-bench", "en-3f2a", "remove", "Remove the dog."),
        ("magicbrush", "242679-1", "edit", "Change 242679, step 1."),
        ("emu-edit", "add-17", "add", "Add a hat."),
        ("humanedit", "Counting-0-frDDoQqUw", "count", "Make it three."),
        ("omniedit", "task_obj_swap_7", "replace", "Swap the cup for a vase."),
        ("pie-bench++", "311000000001", "remove", 'Change this image of "a dog on a chair" into "a chair".'),
    ],
)
def test_rows_become_tasks(roots: dict[str, Path], name: str, id: str, task_type: str, instruction: str) -> None:
    task = one(name, roots[name])
    assert (task.id, task.task_type, task.instruction) == (id, task_type, instruction)


def test_gedit_takes_the_raw_image_and_filters_by_language(roots: dict[str, Path]) -> None:
    assert same(one("gedit-bench", roots["gedit-bench"]).images[0], make_image(2))
    assert list(load_tasks("gedit-bench", root=roots["gedit-bench"], language="cn")) == []


def test_a_file_without_the_column_of_languages_is_not_taken_for_one_of_another_language(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([{"key": "a", "instruction": "x"}]).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(DatasetError, match=r"lacks column instruction_language of .*; it has key, instruction"):
        list(load_tasks("gedit-bench", root=tmp_path, language="en"))


@pytest.mark.parametrize(("name", "box"), [("magicbrush", (1, 2, 5, 8)), ("humanedit", BOX)])
def test_erased_regions_are_white_in_the_mask(
    roots: dict[str, Path], name: str, box: tuple[int, int, int, int]
) -> None:
    """The published masks are images with a hole; taken as grey images, they would mark all that must stay."""
    mask = loaded(one(name, roots[name]).mask)
    assert white_box(mask) == box
    assert set(np.unique(np.asarray(mask))) == {0, 255}


def test_runs_are_white_in_the_mask(roots: dict[str, Path]) -> None:
    mask = loaded(one("pie-bench++", roots["pie-bench++"]).mask)
    assert mask.size == (512, 512)
    assert white_box(mask) == (0, 1, 3, 3)


@pytest.mark.parametrize("name", ["emu-edit", "humanedit", "pie-bench++"])
def test_captions_have_the_names_that_evaluators_read(roots: dict[str, Path], name: str) -> None:
    metadata = one(name, roots[name]).metadata
    assert metadata["source_caption"] != metadata["target_caption"]
    assert "[" not in metadata["source_caption"]


def test_the_data_sets_own_type_and_other_wordings_are_kept(roots: dict[str, Path]) -> None:
    assert one("gedit-bench", roots["gedit-bench"]).metadata["original_task_type"] == "subject-remove"
    assert one("omniedit", roots["omniedit"]).metadata["other_wordings"] == ["Replace the cup with a vase of glass."]


def test_the_name_on_the_hub_will_do(roots: dict[str, Path]) -> None:
    assert one("osunlp/MagicBrush", roots["magicbrush"]).id == "242679-1"


@pytest.fixture(scope="module")
def brush(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("brush")
    rows = [magicbrush_row(session, turn) for session, turns in (("7", 2), ("9", 1)) for turn in range(1, turns + 1)]
    write_parquet(root / "data/dev-00000-of-00001.parquet", rows, ("source_img", "mask_img", "target_img"))
    return root


def test_turns_are_chained_tasks(brush: Path) -> None:
    tasks = list(load_tasks("magicbrush", split="dev", root=brush))
    assert [(task.metadata["session"], task.metadata["turn"]) for task in tasks] == [("7", 1), ("7", 2), ("9", 1)]
    assert same(tasks[1].images[0], loaded(tasks[0].target))


def test_turns_of_a_session_are_one_task(brush: Path) -> None:
    two, single = load_tasks("magicbrush", split="dev", root=brush, multi_turn="session")
    assert two.instruction == "1. Change 7, step 1.\n2. Change 7, step 2."
    assert two.metadata["turns"] == ["Change 7, step 1.", "Change 7, step 2."]
    assert same(two.images[0], make_image(1))
    assert same(two.target, make_image(3))
    assert white_box(loaded(two.mask)) == (1, 2, 6, 8)
    assert single.instruction == "Change 9, step 1."


def test_a_split_that_is_not_among_the_files_is_named(brush: Path) -> None:
    with pytest.raises(DatasetError, match="no files of split 'train'; it has: dev"):
        list(load_tasks("magicbrush", split="train", root=brush))


def test_files_named_after_no_split_are_all_taken(tmp_path: Path) -> None:
    _, row, images = ROWS["emu-edit"]
    write_parquet(tmp_path / "mine.parquet", [row], images)
    assert one("emu-edit", tmp_path).id == "add-17"


def test_arrow_files_are_read(tmp_path: Path) -> None:
    """GEdit-Bench lies on the hub in this form."""
    import datasets

    _, row, images = ROWS["gedit-bench"]
    table = datasets.Dataset.from_list([row])
    for column in images:
        table = table.cast_column(column, datasets.Image(decode=False))
    table.save_to_disk(str(tmp_path / "train"))
    assert same(one("gedit-bench", tmp_path).images[0], make_image(2))


def test_a_missing_column_is_named_with_the_row(tmp_path: Path) -> None:
    _, row, _ = ROWS["emu-edit"]
    write_parquet(tmp_path / "test.parquet", [{k: v for k, v in row.items() if k != "instruction"}], ("image",))
    with pytest.raises(DatasetError, match="emu-edit row 0: lacks column instruction of facebook/emu_edit_test_set"):
        one("emu-edit", tmp_path)


def test_a_row_must_not_name_files_elsewhere(tmp_path: Path) -> None:
    _, row, _ = ROWS["emu-edit"]
    write_parquet(tmp_path / "test.parquet", [{**row, "image": {"bytes": None, "path": "/etc/passwd"}}], ("image",))
    with pytest.raises(DatasetError, match="lies outside the data set's own folder"):
        one("emu-edit", tmp_path)


def test_broken_runs_are_refused(tmp_path: Path) -> None:
    _, row, _ = ROWS["pie-bench++"]
    for mask in ("1 2 3", "-4 3", "99999999 3", "1 x"):
        write_parquet(tmp_path / "3_delete_object_80/V1.parquet", [{**row, "mask": mask}], ("image",))
        with pytest.raises(DatasetError, match="pie-bench\\+\\+ row 0: the mask"):
            one("pie-bench++", tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("magicbrush", {"split": "tset"}, "unknown split of magicbrush 'tset'"),
        ("magicbrush", {"multi_turn": "sesion"}, "Did you mean 'session'"),
        ("emu-edit", {"multi_turn": "session"}, "one turn an image"),
        ("emu-edit", {"language": "en"}, "one language"),
        ("emu-edit", {"config": "x"}, "no parts"),
        ("pie-bench++", {"config": "4_delete_object_80"}, "Did you mean '3_delete_object_80'"),
        ("emu-edit", {"revison": "x"}, "Did you mean 'revision'"),
    ],
)
def test_wrong_options_are_refused_at_once(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task_rows(name, **options)


class Hub:
    """Stands in for the hub behind `datasets.load_dataset`: keeps what was asked for."""

    def __init__(self, name: str, streaming: bool) -> None:
        import datasets

        _, row, images = ROWS[name]
        self.asked: list[tuple[Any, ...]] = []
        table = datasets.Dataset.from_list([row, row])
        for column in images:
            table = table.cast_column(column, datasets.Image())
        self.rows = table.to_iterable_dataset() if streaming else table

    def load_dataset(self, repo: str, part: str | None, **options: Any) -> Any:
        self.asked.append((repo, part, options))
        return self.rows


@pytest.mark.parametrize(
    ("name", "streaming"), [pytest.param("omniedit", True, marks=pytest.mark.slow), ("gedit-bench", False)]
)
def test_rows_come_from_the_hub_undecoded(monkeypatch: pytest.MonkeyPatch, name: str, streaming: bool) -> None:
    import datasets

    hub = Hub(name, streaming)
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    (task,) = load_tasks(name, limit=1, revision="abc")
    assert isinstance(task.images[0], bytes)
    options = {"split": "train", "revision": "abc", "streaming": streaming}
    assert hub.asked == [(ADAPTERS[name].repo, None, options)]


def test_nothing_is_asked_of_the_hub_before_a_task_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    hub = Hub("pie-bench++", True)
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    tasks = load_tasks("pie-bench++")
    assert hub.asked == []
    next(tasks)
    assert [part for _, part, _ in hub.asked] == ["0_random_140"]


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*args: Any, **options: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub\nlong trace")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        DatasetError, match=r"cannot read osunlp/MagicBrush from the hub \(Couldn't reach the Hub\).*root="
    ):
        next(load_tasks("magicbrush"))
