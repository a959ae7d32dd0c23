"""The index survives its own damage, full disks, folders that cannot be written, and what others put in it."""

from __future__ import annotations

import io
import os
import resource
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image

from agentfly.errors import ConfigError
from agentfly.viewer.index import Index, index, reader
from agentfly.viewer.index.schema import FILE_NAME
from agentfly.viewer.thumbnails import Thumbnails
from tests.unit.viewer.made import append, content, keys, line, run_of


@pytest.mark.parametrize(
    "harm", ["no database", "cut in half", "a page of noise", "empty", "of another version", "gone"]
)
def test_an_index_that_is_no_good_is_made_anew(tmp_path: Path, harm: str) -> None:
    run, _ = run_of(tmp_path / "run", *(line(str(number), answer="x" * 500) for number in range(60)))
    found = Index(run)
    found.refresh()
    expected = content(found)
    with closing(sqlite3.connect(found.path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = found.path.read_bytes()
    if harm == "of another version":
        (found.path.parent / "index.sqlite").write_bytes(data)
        found.path.unlink()
    elif harm == "gone":
        found.path.unlink()
    else:
        found.path.write_bytes(
            {
                "no database": b"text" * 5000,
                "cut in half": data[: len(data) // 2],
                "a page of noise": data[:4096] + os.urandom(len(data) - 4096),
                "empty": b"",
            }[harm]
        )
    later = Index(run)
    for _ in range(2):  # damage may only be met by the one that reads
        with suppress(ConfigError):
            later.refresh()
            content(later)
    assert content(later) == expected
    assert [path.name for path in found.path.parent.glob("*.sqlite")] == [FILE_NAME]


def test_a_run_that_is_removed_while_it_is_read_is_not_made_again(tmp_path: Path) -> None:
    run, _ = run_of(tmp_path / "run", line("a"))
    found, pictures = Index(run), Thumbnails(run.home / "thumbnails")
    shutil.rmtree(run.folder)
    with pytest.raises(ConfigError, match="cannot be written"):
        found.refresh()
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    with pytest.raises(FileNotFoundError):
        pictures.of_data(buffer.getvalue(), 8, 10**6)
    assert not run.folder.exists()


def test_two_viewers_that_find_a_damaged_index_make_one(tmp_path: Path) -> None:
    run, _ = run_of(tmp_path / "run", *(line(str(number)) for number in range(5)))
    Index(run).refresh()
    for _ in range(5):
        (run.home / FILE_NAME).write_bytes(b"noise" * 5000)
        viewers = [Index(run) for _ in range(4)]
        threads = [threading.Thread(target=viewer.refresh) for viewer in viewers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert all(viewer.refresh() and viewer.state().chains == 5 for viewer in viewers)


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_without_room_is_told_and_the_index_goes_on_later(tmp_path: Path) -> None:
    run, file = run_of(tmp_path / "run", line("a"))
    found = Index(run)
    found.refresh()
    append(file, *(line(str(number), instruction="y" * 2000) for number in range(500)))
    with full_disk(200_000), pytest.raises(ConfigError, match="cannot be written"):
        found.refresh()
    assert keys(found) == ["a"], "nothing of the batch is left"
    assert found.refresh()
    assert found.state().chains == 501


def test_a_full_disk_has_its_remedy() -> None:
    fault = sqlite3.OperationalError("database or disk is full")
    fault.sqlite_errorcode = sqlite3.SQLITE_FULL
    assert index._remedy(fault) == "make room on the disk"


def test_a_folder_that_cannot_be_written_has_its_index_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = run_of(tmp_path / "run", line("a"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "run" / ".view").write_text("a file where the folder would be")
    found = Index(run)
    assert found.refresh()
    assert keys(found) == ["a"]
    assert found.path.is_relative_to(tmp_path / "temporary")
    assert stat.S_IMODE(found.path.parent.stat().st_mode) == 0o700


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = run_of(tmp_path / "run", line("a"))
    found = Index(run)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reader, "_read_batch", refuse)
    with pytest.raises(ConfigError, match=r"trajectories\.jsonl' cannot be read: Permission denied"):
        found.refresh()


def test_an_index_from_elsewhere_names_no_other_file(tmp_path: Path) -> None:
    run, _ = run_of(tmp_path / "run", line("a"))
    found = Index(run)
    found.refresh()
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 10_000 + b"\n")
    with closing(sqlite3.connect(found.path)) as database:
        database.execute("UPDATE parts SET path = ?", (str(secret),))
        database.commit()
    with pytest.raises(KeyError):
        found.raw_line(1)
