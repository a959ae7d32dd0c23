"""Read the rows of parquet, arrow and JSON-lines files, a few at a time."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfly.errors import DatasetError, require, shortened
from agentfly.files import text_encoding, undecodable
from agentfly.lenient_json import MAX_DEPTH, nested_deeper

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_SUFFIXES: tuple[str, ...] = (".parquet", ".arrow")
Row = Mapping[str, Any]  # values of the columns; their types are those of a foreign file
# Rows hold images: some MB each.
_ROWS_AT_ONCE = 8
_LONGEST_LINE = 256 * 1024 * 1024
_MOST_NAMED = 40
_BUFFER = 1024 * 1024
_LONG = 10_000  # characters
_JSON = json.JSONDecoder(parse_constant=lambda _: None)


def read_table(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a parquet or arrow file, images undecoded, in bounded memory.

    Args:
        path: of the file.
        columns: of a parquet file, those to read; all by default.

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
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
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


def read_lines(path: Path) -> Iterator[tuple[int, str | bytes]]:
    """Yield the lines of a JSON-lines file that are not blank, with their numbers from 1.

    A line that is no UTF-8 comes as bytes, which `parse_json` refuses: a wrong row leaves the others.

    Raises:
        DatasetError: the file is missing, is no text, or a line is longer than any row of text and images can be.
    """
    number = 0
    try:
        encoding = text_encoding(path)
        for line in _utf8_lines(path) if encoding.startswith("utf-8") else _text_lines(path, encoding):
            number += 1
            if len(line) >= _LONGEST_LINE:
                raise DatasetError(f"{path.name} line {number} is longer than {_LONGEST_LINE} characters")
            if not line.isspace():
                yield number, line
    except UnicodeDecodeError as fault:
        raise DatasetError(f"{path.name}, after line {number}, {undecodable(fault)}") from fault
    except OSError as fault:
        raise DatasetError(f"cannot read {path}: {fault.strerror or fault}") from fault


def _text_lines(path: Path, encoding: str) -> Iterator[str]:
    with path.open(encoding=encoding) as file:
        while line := file.readline(_LONGEST_LINE):
            yield line


def _utf8_lines(path: Path) -> Iterator[str | bytes]:
    # Lines of megabytes: Python's text files decode them in small pieces, several times as slowly.
    with path.open("rb", buffering=_BUFFER) as file:
        while line := file.readline(_LONGEST_LINE):
            # Files that were put together have marks inside.
            whole = line.removeprefix(codecs.BOM_UTF8)
            for part in whole.splitlines(keepends=True) if whole.find(b"\r", 0, -2) >= 0 else (whole,):
                try:
                    yield part.decode()
                except UnicodeDecodeError:
                    yield part


def parse_line(line: str | bytes) -> Row:
    """Return the JSON object of a line.

    Raises:
        DatasetError: the line is not JSON, or not an object.
    """
    row = parse_json(line)
    if not isinstance(row, dict):
        raise DatasetError(f"a line must be a JSON object {{...}}, this is {type(row).__name__}")
    return row


def parse_json(text: str | bytes) -> object:
    """Return the JSON value of a line of `read_lines`.

    NaN and the infinities, which other writers use for missing values and JSON does not know, are None.

    Raises:
        DatasetError: the text is not JSON, or holds what is no text.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = _JSON.decode(text)
    except UnicodeDecodeError as fault:
        raise DatasetError(undecodable(fault)) from fault
    except (ValueError, RecursionError) as fault:
        raise DatasetError(f"not JSON: {fault}") from fault
    # A long text is mostly base64, in which counting takes longer than looking at the few values.
    if (len(text) > _LONG or text.count("[") + text.count("{") > MAX_DEPTH) and nested_deeper(value, MAX_DEPTH):
        raise DatasetError(f"nested more than {MAX_DEPTH} deep: write it flatter")
    if "\\" in text:
        try:
            _check_whole(value)
        except UnicodeEncodeError as fault:
            half = f"\\u{ord(fault.object[fault.start]):04x}"
            raise DatasetError(f"holds {half}, half of a surrogate pair: write the whole character") from fault
    return value


def column_names(row: Row) -> str:
    """Return the columns of a row for a message, at most a screen of them."""
    names = [shortened(str(name)) for name in row]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return (", ".join(names[:_MOST_NAMED]) + more) or "nothing"


def is_missing(value: object) -> bool:
    """Return True for each form of an empty cell, such as NaN or an image without bytes and path."""
    if isinstance(value, Mapping):
        return not any(value.values())
    return value is None or (isinstance(value, (str, bytes, list, tuple)) and not value) or is_nan(value)


def is_nan(value: object) -> bool:
    """Return True for NaN, which pandas writes for a missing value of any kind."""
    return isinstance(value, float) and math.isnan(value)


def _check_whole(value: object) -> None:
    """Raise `UnicodeEncodeError` if escapes of JSON made half of a surrogate pair, which no file can hold."""
    if isinstance(value, str):
        if not value.isascii():
            value.encode()
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_whole(name)
            _check_whole(item)
    elif isinstance(value, list):
        for item in value:
            _check_whole(item)


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
