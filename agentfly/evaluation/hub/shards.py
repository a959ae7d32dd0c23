"""Write rows into parquet shards of limited size, one series for each split, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from agentfly.datasets.rows import ParquetRows

if TYPE_CHECKING:
    import datasets


@dataclass
class SplitSize:
    """Size of a split.

    Attributes:
        rows: their number.
        bytes: of the rows, before compression.
        files: shards, in order.
    """

    rows: int = 0
    bytes: int = 0
    files: list[Path] = field(default_factory=list)


class Shards:
    """A context manager that writes `SPLIT-00000-of-00002.parquet` files. They get these names when all are whole.

    Args:
        folder: made where it is missing.
        features: types of the columns.
        shard_bytes: size of the rows after which a new file begins.

    Attributes:
        sizes: by split.
    """

    def __init__(self, folder: Path, features: datasets.Features, shard_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.sizes: dict[str, SplitSize] = {}
        self._folder, self._features, self._shard_bytes = folder, features, shard_bytes
        self._open: dict[str, tuple[ParquetRows, ExitStack]] = {}
        self._filled: dict[str, int] = {}

    def __enter__(self) -> Shards:
        return self

    def add(self, split: str, row: Mapping[str, object]) -> None:
        """Write a row to a split."""
        size, row_bytes = self.sizes.setdefault(split, SplitSize()), _bytes(row)
        if split in self._open and self._filled[split] + row_bytes > self._shard_bytes:
            self._open.pop(split)[1].close()
        if split not in self._open:
            path, stack = self._folder / f"{split}-{len(size.files):05d}.parquet", ExitStack()
            self._open[split] = stack.enter_context(ParquetRows(path, self._features)), stack
            self._filled[split] = 0
            size.files.append(path)
        self._open[split][0].add(row)
        self._filled[split] += row_bytes
        size.rows, size.bytes = size.rows + 1, size.bytes + row_bytes

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, stack in self._open.values():
            stack.__exit__(kind, fault, trace)
        if kind is not None:
            return
        for split, size in self.sizes.items():
            for number, path in enumerate(size.files):
                name = f"{split}-{number:05d}-of-{len(size.files):05d}.parquet"
                size.files[number] = path.rename(path.with_name(name))


def _bytes(value: object) -> int:
    """Return the size of a value of a row."""
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    if isinstance(value, list | tuple):
        # Thousands of ids and log-probs: their kind is that of the first.
        return 8 * len(value) if value and isinstance(value[0], int | float) else sum(map(_bytes, value))
    return len(value) if isinstance(value, bytes | str) else 8
