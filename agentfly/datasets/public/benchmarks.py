"""Read benchmarks that come as folders, in the layouts of their repositories.

ImgEdit (github.com/PKU-YuanGroup/ImgEdit, `Benchmark/*/…readme.md`): JSON objects by key. Entries of the
basic suite are `{"id": IMAGE, "prompt", "edit_type"}`, of the UGE (hard) suite `{"id", "prompt"}`, of the multi-turn
suite `{"id", "turn1", "turn2", ...}`; `id` is a path below the folder of original images.

RISEBench (github.com/PhoenixZ810/RISEBench, `gpt_eval.py` and `data/`): a JSON list of `{"index", "category",
"instruction", "image", "reference" or "reference_txt", "reference_img", "subtask", ...}`; `image` is a path, or a
list of them, below `data/`. Its reference images show one possible answer, so they are references and not targets.

KRIS-Bench (github.com/mercurystraw/Kris_Bench, `KRIS_Bench/CATEGORY/annotation.json`): JSON objects by key,
`{"ori_img": name or list of names, "gt_img", "ins_en", "explain_en"}`, whose images lie beside them. `gt_img` is a
reference.

The test split of MagicBrush, which is not on the hub (github.com/OSU-NLP-Group/MagicBrush,
`edit_cli_single_multi_turn.py` and `evaluation/image_eval.py`): `edit_sessions.json` has `{"input", "output", "mask",
"instruction"}` of each turn by the id of the image, `local_descriptions.json` the caption of each image by id and name,
`images/ID/` the images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from agentfly.datasets.image_paths import ImageFolder
from agentfly.datasets.public.columns import mask_from_cutout
from agentfly.datasets.public.tasks import MULTI_TURN, numbered, stable_task_type
from agentfly.datasets.tables import Row
from agentfly.datasets.task import EditTask, TaskRow
from agentfly.errors import ConfigError, DatasetError, shortened, unknown_name
from agentfly.files import read_text
from agentfly.images import ImageSource

IMGEDIT_SPLITS: tuple[str, ...] = ("basic", "uge", "multiturn")
_IMAGE_FOLDERS = (".", "original_images", "data", "data_total", "images")


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
            # A field that one entry has changes how the benchmark's script judges others.
            fields = sorted({name for entry in listed for name in entry})
            for entry in entries:
                make = partial(_rise_task, entry, fields, path, root)
                yield TaskRow(f"{path.name} index {entry.get('index')!r}", make)
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


def _rise_task(entry: Row, fields: list[str], path: Path, root: Path) -> EditTask:
    missing = [name for name in ("index", "instruction", "image") if not entry.get(name)]
    if missing:
        raise DatasetError(f"lacks {', '.join(missing)}")
    images = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    metadata = {
        name: value
        for name, value in entry.items()
        if name not in ("index", "instruction", "image") and value is not None
    }
    metadata["fields"] = fields
    return EditTask(
        id=str(entry["index"]),
        instruction=str(entry["instruction"]).strip(),
        images=tuple(_image(image, path, root) for image in images),
        task_type=stable_task_type(str(entry.get("category", "reasoning"))),
        metadata=metadata,
        references=_optional({"reference_img": entry.get("reference_img")}, partial(_image, path=path, root=root)),
    )


def kris_rows(root: Path, split: str | None) -> Iterator[TaskRow]:
    """Yield the rows of KRIS-Bench.

    Args:
        root: folder with its files.
        split: one of its categories, such as "color_change"; None takes all.

    Raises:
        ConfigError: unknown category.
        DatasetError: the folder does not hold the benchmark.
    """
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}: root= names the folder with the benchmark's files")
    files = {path.parent.name: path for path in sorted(root.rglob("annotation.json"))}
    if not files:
        raise DatasetError(f"kris: no folder below {root} has an annotation.json")
    if split is not None and split not in files:
        raise ConfigError(unknown_name("split of kris", split, files))
    return _kris_rows({name: path for name, path in files.items() if split in (None, name)})


def _kris_rows(files: Mapping[str, Path]) -> Iterator[TaskRow]:
    for category, path in files.items():
        content = _read_json(path)
        if not isinstance(content, dict):
            raise DatasetError(f"{path} is no JSON object of entries")
        for key, entry in content.items():
            yield TaskRow(f"{category} key {key!r}", partial(_kris_task, key, entry, category, path))


def _kris_task(key: str, entry: object, category: str, path: Path) -> EditTask:
    if not isinstance(entry, dict):
        raise DatasetError("is no JSON object")
    instruction = entry.get("ins_en") or entry.get("instruction")
    names = entry.get("ori_img")
    names = names if isinstance(names, list) else [names]
    if not instruction or not all(names):
        raise DatasetError("lacks ins_en or ori_img")
    explanation = str(entry.get("explain_en") or entry.get("explain") or "")
    return EditTask(
        id=f"{category}-{key}",
        instruction=str(instruction).strip(),
        images=tuple(_beside(name, path) for name in names),
        task_type=stable_task_type(category),
        metadata={"category": category, "explanation": explanation, "images": names, "original_task_type": category},
        references=_optional({"gt_img": entry.get("gt_img")}, partial(_beside, path=path)),
    )


def magicbrush_test_rows(root: Path, multi_turn: str) -> Iterator[TaskRow]:
    """Yield the rows of MagicBrush's test split.

    Args:
        root: folder with its files.
        multi_turn: "chained" makes each turn a task on the published image before it; "session" makes all turns on an
            image one task, from the first image to the last target.

    Raises:
        ConfigError: unknown `multi_turn`.
        DatasetError: the folder does not hold the split.
    """
    if multi_turn not in MULTI_TURN:
        raise ConfigError(unknown_name("multi_turn", multi_turn, MULTI_TURN))
    found = next(iter(sorted(root.rglob("edit_sessions.json"))), None)
    if found is None:
        raise DatasetError(f"magicbrush: no folder below {root} has the edit_sessions.json of the test split")
    return _magicbrush_rows(root, found, whole_sessions=multi_turn == "session")


def _magicbrush_rows(root: Path, path: Path, *, whole_sessions: bool) -> Iterator[TaskRow]:
    sessions = _read_json(path)
    captions_file = path.with_name("local_descriptions.json")
    captions = _read_json(captions_file) if captions_file.is_file() else {}
    if not isinstance(sessions, dict) or not isinstance(captions, dict):
        raise DatasetError(f"{path}, or {captions_file.name} beside it, is no JSON object of images")
    for session, turns in sessions.items():
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise DatasetError(f"{path.name} key {session!r} is no list of turns")
        words = captions.get(session) or {}
        for last in [len(turns)] if whole_sessions else range(1, len(turns) + 1):
            make = partial(_magicbrush_task, session, turns, last, words, path, root, whole=whole_sessions)
            yield TaskRow(f"{path.name} key {session!r} turn {last}", make)


def _magicbrush_task(
    session: str, turns: Sequence[Row], last: int, captions: Row, path: Path, root: Path, *, whole: bool
) -> EditTask:
    edited = turns[:last] if whole else turns[last - 1 : last]
    if not edited or not all(turn.get("input") and turn.get("instruction") for turn in edited):
        raise DatasetError("lacks input or instruction")
    find = partial(_image, path=path, root=root)
    source, output = str(edited[0]["input"]), str(edited[-1].get("output") or f"{session}-output{last}.png")
    masks = {} if whole else _optional({"mask": f"{session}/{edited[0].get('mask')}"}, find)
    wording = [str(turn["instruction"]).strip() for turn in edited]
    metadata: dict[str, object] = {"session": session, **({"turns": wording} if whole else {"turn": last})}
    for ours, name in (("source_caption", source), ("target_caption", output)):
        if isinstance(captions.get(name), str):
            metadata[ours] = captions[name]
    return EditTask(
        id=session if whole else f"{session}-{last}",
        instruction=numbered(wording),
        images=(find(f"{session}/{source}"),),
        target=find(f"{session}/{output}"),
        mask=mask_from_cutout(masks["mask"]) if masks else None,
        metadata=metadata,
    )


def _optional(names: Mapping[str, object], find: Callable[[object], Path]) -> dict[str, ImageSource]:
    """Return the images that are there, by name."""
    found: dict[str, ImageSource] = {}
    for name, image in names.items():
        with suppress(DatasetError):
            found[name] = find(image)
    return found


def _beside(name: object, path: Path) -> Path:
    """Return the path of an image in the folder of its JSON file."""
    if not isinstance(name, str) or not name:
        raise DatasetError("names no image")
    ImageFolder(path.parent).source(name)
    if not (path.parent / name).is_file():
        raise DatasetError(f"image {shortened(name)!r} is not in {path.parent}: unpack the benchmark's images there")
    return path.parent / name


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
        yield path, _read_json(path)


def _read_json(path: Path) -> object:
    try:
        content: object = json.loads(read_text(path))
    except (ValueError, RecursionError, OSError) as fault:
        raise DatasetError(f"cannot read {path}: {fault}") from fault
    return content
