"""A parquet file that grows row by row: memory for a few rows, and never half a file."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from agentfly.datasets.rows import ParquetRows


def test_rows_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentfly.datasets.rows._BYTES", 1000)
    path = tmp_path / "x.parquet"
    with ParquetRows(path) as rows:
        for number in range(10):
            rows.add({"number": number, "nested": [{"bytes": b"x" * 400, "path": None}]})
            assert rows._bytes < 1000
            assert not path.exists()
    file = pq.ParquetFile(path)
    assert file.num_row_groups == 4
    assert file.read()["number"].to_pylist() == list(range(10))


def test_a_fault_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"the old one")

    def fail_halfway() -> None:
        with ParquetRows(path) as rows:
            for number in range(600):
                rows.add({"a": number if number < 500 else object()})

    with pytest.raises(Exception, match="object"):
        fail_halfway()
    assert [file.name for file in tmp_path.iterdir()] == ["x.parquet"]
    assert path.read_bytes() == b"the old one"
