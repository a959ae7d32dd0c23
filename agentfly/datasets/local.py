"""Read the user's own data: JSON lines, parquet or arrow files, or a folder of images.

A row has `instruction` and `image` (or `images`, the one to edit first). It may have `id`, `target`, `mask`,
`task_type` and `metadata`; all other columns become metadata. A mask is white where the image must change.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from agentfly.datasets.image_paths import ImageFolder, option
from agentfly.datasets.rows import COLUMNS
from agentfly.datasets.tables import (
    TABLE_SUFFIXES,
    Row,
    column_names,
    is_missing,
    is_nan,
    parse_json,
    parse_line,
    read_lines,
    read_table,
    table_columns,
)
from agentfly.datasets.task import EditTask, TaskRow
from agentfly.errors import DatasetError, shortened
from agentfly.files import read_text, undecodable
from agentfly.settings import Settings

IMAGE_SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
SIDECAR = "metadata.jsonl"
_LINES = (".jsonl", ".ndjson")
_LONGEST_INSTRUCTION = 64 * 1024
# Names of the columns that `datasets` expects in the metadata.jsonl of a folder of images.
_SHARD = re.compile(r"(?P<split>\w[\w.]*)-\d{5}-of-\d{5}\.parquet")
# Where `agentfly export --to-hub` has the fields of the task among the columns of its chain.
_EXPORTED = {"id": "task_id", "images": "source_images"}
_FOLDER_COLUMNS = {"image": "file_name", "target": "target_file_name", "mask": "mask_file_name"}


class LocalOptions(Settings):
    """Options of data by path.

    Attributes:
        columns: our field -> your column, such as {"instruction": "prompt"}.
        allow_outside: also take images from outside the data set's folder, and from URLs.
        text_only: a row without an image is a task without images, and not an error.
    """

    columns: Mapping[str, str] = {}
    allow_outside: bool = False
    text_only: bool = False


def local_rows(path: Path, split: str | None, options: LocalOptions) -> Iterator[TaskRow]:
    """Yield the rows of a file or folder.

    Args:
        path: `.jsonl`, `.parquet`, `.arrow`, or a folder.
        split: in a folder, the subfolder or file of that name.
        options: names of the columns, and allowed places of images.

    Raises:
        DatasetError: there is no such file, or no data set in it.
    """
    path = path.absolute()  # valid after a change of the working folder
    if path.is_dir():
        return _folder_rows(path, split, options)
    if path.suffix in _LINES:
        return _line_rows(path, options, dict(options.columns))
    if path.suffix in TABLE_SUFFIXES:
        return _table_rows(path, options)
    raise DatasetError(f"cannot read tasks from {path}: give .jsonl, .parquet, .arrow, or a folder of images")


def _folder_rows(folder: Path, split: str | None, options: LocalOptions) -> Iterator[TaskRow]:
    # macOS writes `._NAME` beside each file on other disks and in archives.
    named = sorted(path for path in folder.iterdir() if not path.name.startswith("._"))
    found = [path for path in named if path.suffix in (*_LINES, *TABLE_SUFFIXES)]
    # Files by split; `train.parquet` and `train.tasks.parquet` are one.
    files = {path.name.split(".")[0]: path for path in found if path.name != SIDECAR}
    if not files and (shards := _shards(folder / "data")):
        return _shard_rows(folder, shards, split, options)
    if split is not None and split in files:
        return local_rows(files[split], None, options)
    if split is not None and not (folder / split).is_dir():
        raise DatasetError(f"{folder} has neither a folder {split}/ nor a file {split}.jsonl or {split}.parquet")
    folder = folder / split if split is not None else folder
    if (folder / SIDECAR).is_file():
        return _line_rows(folder / SIDECAR, options, {**_FOLDER_COLUMNS, **options.columns})
    if files and split is None:
        if len(files) > 1:
            raise DatasetError(f"{folder} holds several files of tasks; name a split: {', '.join(files)}")
        return local_rows(next(iter(files.values())), None, options)
    images = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.stem.endswith((".target", ".mask"))
        and not path.name.startswith("._")
    ]
    if not images:
        raise DatasetError(f"{folder} holds no images and no {SIDECAR}; name a file in it, or a split")
    return (TaskRow(str(path.relative_to(folder)), partial(_image_task, path, folder, options)) for path in images)


def _shards(folder: Path) -> dict[str, list[Path]]:
    """Return the shards of a folder by split, named as on the hub: `train-00000-of-00002.parquet`."""
    shards: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if found := _SHARD.fullmatch(path.name):
            shards.setdefault(found["split"], []).append(path)
    return shards


def _shard_rows(
    folder: Path, shards: Mapping[str, Sequence[Path]], split: str | None, options: LocalOptions
) -> Iterator[TaskRow]:
    """Yield the rows of a split, by default of the only one."""
    if split is None and len(shards) > 1:
        raise DatasetError(f"{folder} holds several splits of tasks; name one: {', '.join(shards)}")
    if split is not None and split not in shards:
        raise DatasetError(f"{folder} has no split {split!r}; it has: {', '.join(shards)}")
    files = shards[split or next(iter(shards))]
    if "messages" in (names := table_columns(files[0])) and "source_images" in names:
        return _exported_rows(files, names, options)
    return (row for path in files for row in _table_rows(path, options))


def _exported_rows(files: Sequence[Path], names: Sequence[str], options: LocalOptions) -> Iterator[TaskRow]:
    """Yield the tasks of exported trajectories, each once: several chains can have the same."""
    columns = {**_EXPORTED, **options.columns}
    wanted = [name for name in dict.fromkeys((*columns.values(), *COLUMNS)) if name in names]
    wanted = [name for name in wanted if name not in _EXPORTED or name in columns.values()]
    seen: set[object] = set()
    for path in files:
        images = ImageFolder(path.parent, options.allow_outside)
        for number, row in enumerate(read_table(path, wanted)):
            if (key := row.get(columns["id"])) is None or key not in seen:
                seen.add(key)
                yield TaskRow(
                    f"{path.name} row {number}", partial(own_task, row, f"{path.stem}-{number}", images, columns)
                )


def _line_rows(path: Path, options: LocalOptions, columns: Mapping[str, str]) -> Iterator[TaskRow]:
    images = ImageFolder(path.parent, options.allow_outside)
    for number, line in read_lines(path):
        name = f"{path.stem}-{number}"

        def make(line: str | bytes = line, name: str = name) -> EditTask:
            return own_task(parse_line(line), name, images, columns, text_only=options.text_only)

        yield TaskRow(f"{path.name} line {number}", make)


def _table_rows(path: Path, options: LocalOptions) -> Iterator[TaskRow]:
    tasks = path.with_name(f"{path.stem}.tasks.parquet")
    if path.suffix == ".parquet" and tasks.is_file() and "extra_info" in table_columns(path):
        # The path names the file of pointers that verl reads; the images are in the file beside it.
        path = tasks
    images = ImageFolder(path.parent, options.allow_outside)
    for number, row in enumerate(read_table(path)):
        columns, text_only = dict(options.columns), options.text_only
        make = partial(own_task, row, f"{path.stem}-{number}", images, columns, text_only=text_only)
        yield TaskRow(f"{path.name} row {number}", make)


def own_task(
    row: Row, default_id: str, images: ImageFolder, columns: Mapping[str, str], *, text_only: bool = False
) -> EditTask:
    """Return the task of a row.

    Args:
        row: in our own columns, or in those that `columns` names.
        default_id: id of a task whose row has none.
        images: places from which images may come.
        columns: our field -> column of the row.
        text_only: the row may have no image.

    Raises:
        DatasetError: a field is missing or of the wrong kind.
    """
    fields = {field: columns[field] if columns.get(field) in row else field for field in (*COLUMNS, "image")}
    instruction = row.get(fields["instruction"])
    if not isinstance(instruction, str):
        raise DatasetError(
            f"lacks an instruction; it has {column_names(row)}. Write one, or name the column that has it: "
            f"{_column_option('instruction', row)}"
        )
    used = set(fields.values())
    extra = {name: value for name, value in row.items() if name not in used and _is_plain(value)}
    id_, task_type = (row.get(fields[name]) for name in ("id", "task_type"))
    target, mask = (row.get(fields[name]) for name in ("target", "mask"))
    return EditTask(
        id=default_id if id_ is None or is_nan(id_) else str(id_),
        instruction=instruction.strip(),
        images=tuple(images.source(image) for image in _images(row, fields, text_only)),
        target=None if is_missing(target) else images.source(target),
        mask=None if is_missing(mask) else images.source(mask),
        task_type=str(task_type) if task_type and not is_nan(task_type) else "edit",
        metadata={**extra, **_metadata(row.get(fields["metadata"]))},
    )


def _images(row: Row, fields: Mapping[str, str], text_only: bool) -> Sequence[object]:
    found = row.get(fields["images"])
    images = row.get(fields["image"]) if is_missing(found) else found
    images = images if isinstance(images, (list, tuple)) else [images]
    if not images or all(map(is_missing, images)):
        # A file that was converted says by itself that a task has none.
        if text_only or (found == [] and row.keys() >= set(COLUMNS)):
            return ()
        raise DatasetError(
            f"lacks an image; it has {column_names(row)}. Name the column that has it: {_column_option('image', row)}. "
            "Tasks without images are read with the option text_only=true"
        )
    return images


def _column_option(field: str, row: Row) -> str:
    """Return the option that names the column of a field, with the row's first column that could be it."""
    own = (name for name in row if name not in (*COLUMNS, "image") and name == shortened(name))
    return option("columns", {field: next(own, "NAME")})


def _metadata(value: object) -> Row:
    if isinstance(value, str) and value:
        try:
            value = parse_json(value)
        except DatasetError as fault:
            raise DatasetError(f"metadata is {fault}") from fault
    if value is None or value == "" or is_nan(value):
        return {}
    if not isinstance(value, Mapping):
        raise DatasetError(f"metadata must be an object {{...}}, it is {type(value).__name__}")
    return value


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    return isinstance(value, (str, int, bool)) or (isinstance(value, float) and math.isfinite(value))


def _image_task(path: Path, folder: Path, options: LocalOptions) -> EditTask:
    """Return the task of an image with its instruction, target and mask in files beside it."""
    words = path.with_suffix(".txt")
    if not words.is_file():
        raise DatasetError(f"has no instruction: write it into {words.name} beside it, or all of them into {SIDECAR}")
    images = ImageFolder(folder, options.allow_outside)
    if images.source(words) and words.stat().st_size > _LONGEST_INSTRUCTION:
        raise DatasetError(f"{words.name} is longer than an instruction can be ({_LONGEST_INSTRUCTION} bytes)")
    try:
        row: dict[str, object] = {"instruction": read_text(words), "image": path}
    except UnicodeDecodeError as fault:
        raise DatasetError(f"{words.name} {undecodable(fault)}") from fault
    for kind in ("target", "mask"):
        beside = (path.with_name(f"{path.stem}.{kind}{suffix}") for suffix in IMAGE_SUFFIXES)
        row[kind] = next((file for file in beside if file.is_file()), None)
    return own_task(row, path.relative_to(folder).with_suffix("").as_posix(), images, {})
