"""Convert tasks to rows of a `datasets.Dataset` and back, without loss.

Images are PNG bytes in the row, or PNG files beside the table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from agentfly.datasets.image_paths import ImageFolder
from agentfly.datasets.tables import Row
from agentfly.datasets.task import EditTask
from agentfly.errors import DatasetError, require, shortened
from agentfly.images import ImageSource, encode_image, handle_of, load_image, load_mask

if TYPE_CHECKING:
    import datasets


from types import TracebackType
from typing import TYPE_CHECKING

from agentfly.files import named

if TYPE_CHECKING:
    import datasets
    import pyarrow.parquet as pq


_ROWS = 256
_BYTES = 16 * 1024 * 1024


class ParquetRows:
    """A context manager that writes a parquet file row by row. The file appears under its name when it is whole.

    A `with` block that ends in an exception leaves no file.

    Args:
        path: of the file.
        features: types of the columns; by default those of the first rows.

    Raises:
        MissingExtraError: `datasets` is not installed.
    """

    def __init__(self, path: Path, features: datasets.Features | None = None) -> None:
        require("datasets", f"writing {path.name}", "data")
        self.path, self.count = path, 0
        self._features, self._half = features, path.with_name(f"{path.name}.{os.getpid()}.half")
        self._rows: list[Mapping[str, object]] = []
        self._bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ParquetRows:
        return self

    def add(self, row: Mapping[str, object]) -> None:
        """Write a row, at once or together with later ones."""
        self._rows.append(row)
        self.count += 1
        self._bytes += _size(row)
        if len(self._rows) >= _ROWS or self._bytes >= _BYTES:
            self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._rows:
                self._flush()
            if self._writer is not None:
                with named(self.path):
                    self._writer.close()
                if kind is None:
                    self._half.replace(self.path)
        finally:
            self._half.unlink(missing_ok=True)

    def _flush(self) -> None:
        import datasets
        import pyarrow.parquet as pq

        table = datasets.Dataset.from_list(self._rows, features=self._features).data.table
        with named(self.path):
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._half, table.schema)
            self._writer.write_table(table)
        self._rows, self._bytes = [], 0


def _size(value: object) -> int:
    """Return the bytes of the images in a row; all else in it is small."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, (list, tuple)) else 0


COLUMNS: tuple[str, ...] = ("id", "instruction", "images", "target", "mask", "task_type", "metadata")
# Fifteen times as fast as the smallest file, and a sixth larger.
_COMPRESSION = 3


class PackedImage(TypedDict):
    """An image column in the form of `datasets.Image`: the bytes of a file, or its path."""

    bytes: bytes | None
    path: str | None


Packer = Callable[[ImageSource], PackedImage]


def tasks_to_dataset(tasks: Iterable[EditTask]) -> datasets.Dataset:
    """Return a data set with one row per task. The columns are the fields of `EditTask`, with `metadata` as JSON.

    Raises:
        ImageError: an image of a task cannot be loaded.
        MissingExtraError: `datasets` is not installed.
    """
    require("datasets", "tasks as a `datasets.Dataset`", "data")
    import datasets

    return datasets.Dataset.from_list([task_to_row(task) for task in tasks], features=task_features())


def task_features() -> datasets.Features:
    """Return the types of the columns of a row."""
    import datasets

    # Undecoded: reading a row costs no decoding and returns the very bytes.
    image = datasets.Image(decode=False)
    text = datasets.Value("string")
    kinds = {"images": datasets.List(image), "target": image, "mask": image}
    return datasets.Features({column: kinds.get(column, text) for column in COLUMNS})


def task_from_row(row: Row, images: ImageFolder | None = None) -> EditTask:
    """Return the task of a row. Images stay encoded until `load_image` opens them.

    Args:
        row: a row of `tasks_to_dataset`, or of a file that `write_rows` wrote.
        images: folder in which images named by path may be; None takes any path.

    Raises:
        DatasetError: a column is missing or unreadable; the message names it.
    """
    missing = [column for column in COLUMNS if column not in row]
    if missing:
        raise DatasetError(f"row lacks {', '.join(missing)}; write rows with agentfly.datasets.tasks_to_dataset")
    try:
        metadata = json.loads(row["metadata"])
    except (TypeError, ValueError, RecursionError) as fault:
        raise DatasetError(f"column metadata of task {shortened(str(row['id']))!r} is not JSON: {fault}") from fault
    source = _source if images is None else images.source
    return EditTask(
        id=row["id"],
        instruction=row["instruction"],
        images=tuple(source(image) for image in row["images"]),
        target=source(row["target"]) if row["target"] is not None else None,
        mask=source(row["mask"]) if row["mask"] is not None else None,
        task_type=row["task_type"],
        metadata=metadata,
    )


def task_to_row(task: EditTask, pack: Packer | None = None) -> dict[str, object]:
    """Return the row of a task.

    Args:
        task: with images that can be loaded.
        pack: converts an image; by default `pack_bytes`.

    Raises:
        ImageError: an image cannot be loaded, or the mask is none.
        DatasetError: the metadata is not JSON, or a text cannot be written.
    """
    pack = pack or pack_bytes
    try:
        metadata = json.dumps(dict(task.metadata), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as fault:
        raise DatasetError(f"metadata of task {shortened(task.id)!r} cannot be written as JSON: {fault}") from fault
    try:
        "".join((task.id, task.instruction, task.task_type, metadata)).encode()
    except UnicodeEncodeError as fault:
        raise DatasetError(
            f"task {shortened(task.id)!r} holds half of a surrogate pair, which no file can hold: "
            "write the whole character"
        ) from fault
    return {
        "id": task.id,
        "instruction": task.instruction,
        "images": [pack(image) for image in task.images],
        "target": pack(task.target) if task.target is not None else None,
        "mask": pack(load_mask(task.mask)) if task.mask is not None else None,
        "task_type": task.task_type,
        "metadata": metadata,
    }


def pack_bytes(source: ImageSource) -> PackedImage:
    """Return an image that is stored in the row."""
    return {"bytes": encode_image(load_image(source), compress_level=_COMPRESSION), "path": None}


def pack_paths(folder: Path, relative_to: Path) -> Packer:
    """Return a packer that stores images as files named by their content, so that equal images share a file.

    Args:
        folder: of the files; it is made.
        relative_to: folder of the table; rows hold paths relative to it.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def pack(source: ImageSource) -> PackedImage:
        image = load_image(source)
        path = folder / f"{handle_of(image)}.png"
        if not path.exists():
            # A file under its final name is whole, also after a crash.
            half = path.with_suffix(f".{os.getpid()}.half")
            half.write_bytes(encode_image(image, compress_level=_COMPRESSION))
            half.replace(path)
        return {"bytes": None, "path": path.relative_to(relative_to).as_posix()}

    return pack


def _source(image: ImageSource | PackedImage) -> ImageSource:
    """Return the bytes or the path of a packed image, and any other source (a decoded image, a path) as it is."""
    if isinstance(image, Mapping):
        content = image.get("bytes")
        return content if isinstance(content, bytes) and content else str(image["path"])
    return image
