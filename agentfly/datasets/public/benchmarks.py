"""Read benchmarks that come as folders, ImgEdit and RISEBench, in the layouts of their repositories.

ImgEdit (github.com/PKU-YuanGroup/ImgEdit, `Benchmark/*/…readme.md`): JSON objects by key. Entries of the
basic suite are `{"id": IMAGE, "prompt", "edit_type"}`, of the UGE (hard) suite `{"id", "prompt"}`, of the multi-turn
suite `{"id", "turn1", "turn2", ...}`; `id` is a path below the folder of original images.

RISEBench (github.com/PhoenixZ810/RISEBench, `gpt_eval.py` and `data/`): a JSON list of `{"index", "category",
"instruction", "image", "reference" or "reference_txt", "reference_img", "subtask", ...}`; `image` is a path, or a
list of them, below `data/`. Its reference images show one possible answer, so they are metadata and not targets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from agentfly.datasets.image_paths import ImageFolder
from agentfly.datasets.public.tasks import numbered, stable_task_type
from agentfly.datasets.tables import Row
from agentfly.datasets.task import EditTask, TaskRow
from agentfly.errors import ConfigError, DatasetError, shortened, unknown_name
from agentfly.files import read_text

IMGEDIT_SPLITS: tuple[str, ...] = ("basic", "uge", "multiturn")
_IMAGE_FOLDERS = (".", "original_images", "data", "data_total")


def imgedit_rows(root: Path, split: str | None) -> Iterator[TaskRow]:
    """Yield the rows of ImgEdit's benchmark.

    Args:
        root: folder with its files.
        split: "basic" (the default), "uge" or "multiturn".

    Raises:
        ConfigError: unknown split.
        DatasetError: the folder holds no such suite.
    """
    split = split or "basic"
    if split not in IMGEDIT_SPLITS:
        raise ConfigError(unknown_name("split of imgedit", split, IMGEDIT_SPLITS))
    return _imgedit_rows(root, split)


def _imgedit_rows(root: Path, split: str) -> Iterator[TaskRow]:
    seen = False
    for path, content in _json_files(root):
        if isinstance(content, dict):
            for key, entry in content.items():
                if _suite(entry) == split:
                    seen = True
                    yield TaskRow(f"{path.name} key {key!r}", partial(_imgedit_task, key, entry, path, root, split))
    if not seen:
        raise DatasetError(f"imgedit: no JSON file below {root} holds entries of the {split} suite")


def risebench_rows(root: Path, split: str | None) -> Iterator[TaskRow]:
    """Yield the rows of RISEBench.

    Args:
        root: folder with its files.
        split: one of its categories, such as "spatial_reasoning"; None takes all.

    Raises:
        DatasetError: the folder does not hold the benchmark.
    """
    for path, content in _json_files(root):
        listed = content if isinstance(content, list) and all(isinstance(entry, dict) for entry in content) else []
        if listed and "index" in listed[0]:
            entries = [entry for entry in listed if split in (None, entry.get("category"))]
            if not entries:
                categories = {str(entry.get("category")) for entry in listed}
                raise ConfigError(unknown_name("split of risebench", str(split), categories))
            for entry in entries:
                yield TaskRow(f"{path.name} index {entry.get('index')!r}", partial(_rise_task, entry, path, root))
            return
    raise DatasetError(f"risebench: no JSON file below {root} is a list of entries with an index and an instruction")


def _suite(entry: object) -> str | None:
    if not isinstance(entry, dict) or "id" not in entry:
        return None
    if "turn1" in entry:
        return "multiturn"
    if "prompt" in entry:
        return "basic" if "edit_type" in entry else "uge"
    return None


def _imgedit_task(key: str, entry: Row, path: Path, root: Path, split: str) -> EditTask:
    turns = [str(entry[name]) for number in range(1, len(entry)) if (name := f"turn{number}") in entry]
    wording = turns or [str(entry["prompt"])]
    metadata: dict[str, object] = {"suite": split, "image": entry["id"]}
    if turns:
        metadata["turns"] = turns
    if "edit_type" in entry:
        metadata["original_task_type"] = entry["edit_type"]
    return EditTask(
        # Several files of the multi-turn suite number their entries from 1.
        id=f"{path.stem}-{key}",
        instruction=numbered(wording).strip(),
        images=(_image(entry["id"], path, root),),
        task_type=stable_task_type(str(entry.get("edit_type", split))),
        metadata=metadata,
    )


def _rise_task(entry: Row, path: Path, root: Path) -> EditTask:
    missing = [name for name in ("index", "instruction", "image") if not entry.get(name)]
    if missing:
        raise DatasetError(f"lacks {', '.join(missing)}")
    images = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    metadata = {
        name: value
        for name, value in entry.items()
        if name not in ("index", "instruction", "image") and value is not None
    }
    return EditTask(
        id=str(entry["index"]),
        instruction=str(entry["instruction"]).strip(),
        images=tuple(_image(image, path, root) for image in images),
        task_type=stable_task_type(str(entry.get("category", "reasoning"))),
        metadata=metadata,
    )


def _image(name: object, path: Path, root: Path) -> Path:
    """Return the path of an image below the folder of its JSON file, the root, or one of their folders of images."""
    if not isinstance(name, str) or not name:
        raise DatasetError("names no image")
    ImageFolder(root).source(name)
    for parent in (path.parent, root):
        subfolders = sorted(folder for folder in parent.iterdir() if folder.is_dir())
        for folder in (*(parent / known for known in _IMAGE_FOLDERS), *subfolders):
            if (folder / name).is_file() and (folder / name).resolve().is_relative_to(root.resolve()):
                return folder / name
    raise DatasetError(f"image {shortened(name)!r} is nowhere below {root}: unpack the benchmark's images there")


def _json_files(root: Path) -> Iterator[tuple[Path, object]]:
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}: root= names the folder with the benchmark's files")
    for path in sorted(root.rglob("[!.]*.json")):  # without the `._NAME` files of macOS
        try:
            yield path, json.loads(read_text(path))
        except (ValueError, RecursionError, OSError) as fault:
            raise DatasetError(f"cannot read {path}: {fault}") from fault
