"""Read the rows of parquet, arrow and JSON-lines files, a few at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfly.errors import DatasetError, require

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_SUFFIXES: tuple[str, ...] = (".parquet", ".arrow")
Row = Mapping[str, Any]  # values of the columns; their types are those of a foreign file
# Rows hold images: some MB each.
_ROWS_AT_ONCE = 8
_LONGEST_LINE = 256 * 1024 * 1024


def read_table(path: Path) -> Iterator[Row]:
    """Yield the rows of a parquet or arrow file, images undecoded, in bounded memory.

    Raises:
        DatasetError: the file is missing, broken, or of another kind.
        MissingExtraError: pyarrow is not installed.
    """
    require("pyarrow", f"reading {path.name}", "data")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                    yield from batch.to_pylist()
        else:
            with pa.memory_map(str(path)) as mapped:
                for batch in _arrow_batches(mapped):
                    for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                        yield from batch.slice(start, _ROWS_AT_ONCE).to_pylist()
    except (OSError, pa.ArrowException) as fault:
        raise DatasetError(f"cannot read {path}: {fault}") from fault


def table_columns(path: Path) -> Sequence[str]:
    """Return the columns of a parquet file.

    Raises:
        DatasetError: the file is missing or broken.
        MissingExtraError: pyarrow is not installed.
    """
    require("pyarrow", f"reading {path.name}", "data")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as fault:
        raise DatasetError(f"cannot read {path}: {fault}") from fault


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a JSON-lines file that are not blank, with their numbers from 1.

    Raises:
        DatasetError: the file is missing, or a line is longer than any row of text and images can be.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):
                number += 1
                if len(line) == _LONGEST_LINE:
                    raise DatasetError(f"{path.name} line {number} is longer than {_LONGEST_LINE} characters")
                if line.strip():
                    yield number, line
    except OSError as fault:
        raise DatasetError(f"cannot read {path}: {fault.strerror or fault}") from fault


def parse_line(line: str) -> Row:
    """Return the JSON object of a line.

    Raises:
        DatasetError: the line is not JSON, or not an object.
    """
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as fault:
        raise DatasetError(f"not JSON: {fault}") from fault
    if not isinstance(row, dict):
        raise DatasetError(f"a line must be a JSON object {{...}}, this is {type(row).__name__}")
    return row


def find_tables(folder: Path, split: str, splits: Sequence[str]) -> list[Path]:
    """Return the files of a split below a folder, named as on the hub.

    Such names are `data/train-00000-of-00034.parquet` and `train/…`. All files are returned where none is named after
    a split.

    Args:
        folder: with the downloaded files.
        split: to find.
        splits: all that the data set has.

    Raises:
        DatasetError: there is no such folder or file.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}: root= names the folder with the downloaded files")
    # macOS writes `._NAME` beside each file on other disks and in archives.
    files = sorted(path for suffix in TABLE_SUFFIXES for path in folder.rglob(f"[!.]*{suffix}"))
    if not files:
        raise DatasetError(f"{folder} holds no {' or '.join(TABLE_SUFFIXES)} file: root= names the downloaded files")

    def belongs(path: Path, name: str) -> bool:
        stem = path.name.split(".")[0]
        return stem == name or stem.startswith((f"{name}-", f"{name}_")) or name in path.relative_to(folder).parts[:-1]

    of_split = {name: [path for path in files if belongs(path, name)] for name in {*splits, split}}
    if of_split[split]:
        return of_split[split]
    if any(of_split.values()):
        there = ", ".join(sorted(name for name, found in of_split.items() if found))
        raise DatasetError(f"{folder} holds no files of split {split!r}; it has: {there}")
    return files


def _arrow_batches(mapped: pa.MemoryMappedFile) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an arrow file. `datasets` writes the stream form, other tools the file form."""
    import pyarrow as pa

    try:
        yield from pa.ipc.open_stream(mapped)
    except pa.ArrowInvalid:
        mapped.seek(0)
        file = pa.ipc.open_file(mapped)
        for index in range(file.num_record_batches):
            yield file.get_batch(index)
