"""ImgEdit and RISEBench from folders in their published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentfly.datasets import load_tasks, task_rows
from agentfly.errors import ConfigError, DatasetError
from agentfly.images import handle_of, load_image
from tests.unit.datasets.example_images import make_image


def save(root: Path, name: str, shade: int) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    make_image(shade).save(root / name)


@pytest.fixture
def imgedit(tmp_path: Path) -> Path:
    save(tmp_path, "singleturn/animal/000342021.jpg", 1)
    save(tmp_path, "hard/000029784.jpg", 2)
    save(tmp_path, "multiturn/000066341.jpg", 3)
    files = {
        "Basic/basic_edit.json": {
            "1082": {"id": "animal/000342021.jpg", "prompt": "Change its shell.", "edit_type": "adjust"}
        },
        "Basic/prompts.json": {"adjust": "You are a data rater."},
        "UGE/UGE_edit.json": {"1": {"id": "000029784.jpg", "prompt": "Remove the lemon."}},
        "multiturn/content_memory.json": {"1": {"id": "000066341.jpg", "turn1": "Make it green.", "turn2": "Again."}},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
        # macOS writes such a file beside each one in an archive.
        (tmp_path / name).with_name(f"._{Path(name).name}").write_bytes(b"\x00\x05\x16\x07")
    return tmp_path


@pytest.mark.parametrize(
    ("split", "id", "task_type", "instruction", "folder"),
    [
        (None, "basic_edit-1082", "attribute", "Change its shell.", "singleturn"),
        ("uge", "UGE_edit-1", "uge", "Remove the lemon.", "hard"),
        ("multiturn", "content_memory-1", "multiturn", "1. Make it green.\n2. Again.", "multiturn"),
    ],
)
def test_imgedit(imgedit: Path, split: str | None, id: str, task_type: str, instruction: str, folder: str) -> None:
    (task,) = load_tasks("imgedit", split=split, root=imgedit)
    assert (task.id, task.task_type, task.instruction) == (id, task_type, instruction)
    assert Path(str(task.images[0])).relative_to(imgedit).parts[0] == folder
    load_image(task.images[0])
    if split == "multiturn":
        assert task.metadata["turns"] == ["Make it green.", "Again."]


def test_imgedit_refuses_images_from_elsewhere(imgedit: Path) -> None:
    entry = {"1": {"id": "../../etc/passwd", "prompt": "Read it.", "edit_type": "add"}}
    (imgedit / "Basic/basic_edit.json").write_text(json.dumps(entry))
    with pytest.raises(DatasetError, match=r"basic_edit\.json key '1': .*outside"):
        list(load_tasks("imgedit", root=imgedit))


@pytest.fixture
def rise(tmp_path: Path) -> Path:
    save(tmp_path, "data/temporal_reasoning_images/1.png", 1)
    save(tmp_path, "data/spatial_reasoning_images/5_1.png", 2)
    save(tmp_path, "data/spatial_reasoning_images/5_2.png", 3)
    entries = [
        {
            "index": "temporal_reasoning_1",
            "category": "temporal_reasoning",
            "instruction": "Draw it a year later.",
            "image": "temporal_reasoning_images/1.png",
            "reference": "A rotten banana.",
            "reference_img": None,
            "subtask": "Life Progression",
        },
        {
            "index": "spatial_reasoning_5",
            "category": "spatial_reasoning",
            "instruction": "Mark the place.",
            "image": ["spatial_reasoning_images/5_1.png", "spatial_reasoning_images/5_2.png"],
            "reference_img": "spatial_reasoning_images/5_ref.png",
        },
    ]
    (tmp_path / "datav2_total_w_subtask.json").write_text(json.dumps(entries))
    return tmp_path


def test_risebench(rise: Path) -> None:
    one, two = load_tasks("risebench", root=rise)
    assert (one.id, one.task_type, one.metadata["reference"]) == (
        "temporal_reasoning_1",
        "temporal_reasoning",
        "A rotten banana.",
    )
    assert [handle_of(load_image(image)) for image in two.images] == [
        handle_of(make_image(2)),
        handle_of(make_image(3)),
    ]
    assert two.target is None
    # A field that one entry has is known to all; an image of the answer that is not there is no reference.
    assert one.metadata["fields"] == two.metadata["fields"]
    assert "subtask" in two.metadata["fields"]
    assert two.references == {}
    save(rise, "data/spatial_reasoning_images/5_ref.png", 4)
    _, two = load_tasks("risebench", root=rise)
    assert handle_of(load_image(two.references["reference_img"])) == handle_of(make_image(4))


def test_risebench_splits_are_categories(rise: Path) -> None:
    (task,) = load_tasks("risebench", split="spatial_reasoning", root=rise)
    assert task.id == "spatial_reasoning_5"
    with pytest.raises(ConfigError, match="Did you mean 'spatial_reasoning'"):
        list(load_tasks("risebench", split="spacial_reasoning", root=rise))


@pytest.fixture
def kris(tmp_path: Path) -> Path:
    entries = {
        "physics": {"1": {"ori_img": "1.jpg", "gt_img": "", "ins_en": "Let it fall.", "explain_en": "Gravity."}},
        "temporal_prediction": {
            "1": {"ori_img": ["1-1.jpg", "1-2.jpg", "1-4.jpg"], "gt_img": "1-3.jpg", "ins_en": "Make frame 3."},
            "2": {"ori_img": "gone.jpg", "ins_en": "Make it."},
        },
    }
    for category, content in entries.items():
        (tmp_path / "KRIS_Bench" / category).mkdir(parents=True)
        (tmp_path / "KRIS_Bench" / category / "annotation.json").write_text(json.dumps(content))
    for shade, name in enumerate(("physics/1.jpg", *(f"temporal_prediction/1-{n}.jpg" for n in (1, 2, 3, 4)))):
        save(tmp_path, f"KRIS_Bench/{name}", shade)
    save(tmp_path, "KRIS_Bench/physics/gone.jpg", 9)
    return tmp_path


def test_kris(kris: Path) -> None:
    (fall,) = load_tasks("kris", split="physics", root=kris)
    assert (fall.id, fall.task_type, fall.instruction) == ("physics-1", "physics", "Let it fall.")
    assert fall.metadata["explanation"] == "Gravity."
    assert fall.references == {}
    rows = list(task_rows("kris", root=kris))
    frames = rows[1].task()
    assert [Path(str(image)).name for image in frames.images] == ["1-1.jpg", "1-2.jpg", "1-4.jpg"]
    assert Path(str(frames.references["gt_img"])).name == "1-3.jpg"
    # An image of another category has the same name.
    with pytest.raises(DatasetError, match=r"'gone\.jpg' is not in .*temporal_prediction"):
        rows[2].task()
    with pytest.raises(ConfigError, match=r"unknown split of kris 'physic'\. Did you mean 'physics'"):
        list(load_tasks("kris", split="physic", root=kris))
    with pytest.raises(DatasetError, match="there is no folder"):
        list(load_tasks("kris", root=kris / "nowhere"))


@pytest.fixture
def magicbrush(tmp_path: Path) -> Path:
    turns = [
        {"input": "7-input.png", "output": "7-output1.png", "mask": "7-mask1.png", "instruction": "Add a hat."},
        {"input": "7-output1.png", "output": "7-output2.png", "mask": "7-mask2.png", "instruction": "Make it red."},
    ]
    for shade, name in enumerate(("input", "output1", "output2", "mask1")):
        save(tmp_path, f"test/images/7/7-{name}.png", shade)
    (tmp_path / "test/edit_sessions.json").write_text(json.dumps({"7": turns}))
    captions = {"7": {"7-input.png": "a head", "7-output1.png": "a hat", "7-output2.png": "a red hat"}}
    (tmp_path / "test/local_descriptions.json").write_text(json.dumps(captions))
    return tmp_path


def test_the_test_split_of_magicbrush(magicbrush: Path) -> None:
    one, two = load_tasks("magicbrush", split="test", root=magicbrush)
    assert [one.id, two.id] == ["7-1", "7-2"]
    assert Path(str(two.images[0])).name == "7-output1.png"
    assert Path(str(two.target)).name == "7-output2.png"
    assert two.metadata == {"session": "7", "turn": 2, "source_caption": "a hat", "target_caption": "a red hat"}
    assert (one.mask is None, two.mask is None) == (False, True)
    (whole,) = load_tasks("magicbrush", split="test", root=magicbrush, multi_turn="session")
    assert (whole.id, whole.instruction) == ("7", "1. Add a hat.\n2. Make it red.")
    assert (Path(str(whole.images[0])).name, Path(str(whole.target)).name) == ("7-input.png", "7-output2.png")
    assert whole.metadata["target_caption"] == "a red hat"
    with pytest.raises(DatasetError, match="not on the hub"):
        list(load_tasks("magicbrush", split="test"))
    with pytest.raises(ConfigError, match="multi_turn"):
        list(load_tasks("magicbrush", split="test", root=magicbrush, multi_turn="all"))


@pytest.mark.parametrize("name", ["imgedit", "risebench"])
def test_what_is_missing_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="root=FOLDER"):
        load_tasks(name)
    with pytest.raises(DatasetError, match="no JSON file"):
        list(load_tasks(name, root=tmp_path))
    with pytest.raises(ConfigError, match="takes no options"):
        load_tasks(name, root=tmp_path, language="en")


def test_missing_images_are_named(rise: Path) -> None:
    (rise / "data/temporal_reasoning_images/1.png").unlink()
    with pytest.raises(DatasetError, match=r"'temporal_reasoning_1': image '.*/1\.png' is nowhere"):
        next(load_tasks("risebench", root=rise))
