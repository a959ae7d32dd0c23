"""Write rows to a parquet file one after the other, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from agentfly.errors import require
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
