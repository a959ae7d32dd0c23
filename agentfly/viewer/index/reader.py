"""Read what is new in a file of trajectories into an index, one batch after the other.

A batch is a transaction that also notes how far the file was read. So two viewers may share an index, and one that is
killed leaves a sound one. A file that was cut, replaced or written anew, as at a resume from a checkpoint, is read from
its beginning.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from agentfly.errors import AgentFlyError, ConfigError
from agentfly.viewer.index.lines import ChainFacts, read_facts
from agentfly.viewer.runs.folder import Part

BATCH_BYTES = 4 * 2**20
LARGEST_LINE = 64 * 2**20  # a longer one counts as damaged, so that it cannot fill the memory
_HEAD, _TAIL = 256, 16 * 2**10  # bytes by which a file is known again
_APPEND_SECONDS = 0.02  # for an append that is under way

_INSERT = f"""INSERT OR REPLACE INTO chains (part, offset, length, {", ".join(ChainFacts._fields)})
VALUES ({", ".join("?" * (3 + len(ChainFacts._fields)))})"""


def remove_parts(database: sqlite3.Connection, parts: Iterable[Part]) -> None:
    """Remove the rows of files that are no parts of the run any more."""
    there = {str(part.path) for part in parts}
    gone = [row["part"] for row in database.execute("SELECT part, path FROM parts") if row["path"] not in there]
    if gone:
        with _transaction(database):
            for part in gone:
                _remove(database, part)


def read_part(database: sqlite3.Connection, part: Part, due: float) -> bool:
    """Read what is new in the file of a part, at least one batch; returns True if everything is read.

    Args:
        database: the index.
        part: whose file may be gone.
        due: `time.monotonic()` after which no further batch is begun.

    Raises:
        sqlite3.Error: the index cannot be written.
        ConfigError: the file cannot be read.
    """
    try:
        with part.path.open("rb") as file:
            while not _unchanged(database, part, file):
                with _transaction(database):
                    number, offset = _position(database, part, file)
                    _read_batch(database, file, number, offset)
                if time.monotonic() >= due:
                    return _unchanged(database, part, file)
    except FileNotFoundError:
        pass
    except OSError as fault:
        raise ConfigError(f"{str(part.path)!r} cannot be read: {fault.strerror or fault}") from fault
    return True


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # SQLite ends it by itself when the disk is full
            database.execute("ROLLBACK")
        raise


def _unchanged(database: sqlite3.Connection, part: Part, file: BinaryIO) -> bool:
    """Return True where everything in a file was read already."""
    known = _known(database, part)
    if known is None:
        return False
    status = os.fstat(file.fileno())
    is_read = known["offset"] + known["torn"] == status.st_size == known["size"]
    return is_read and known["inode"] == status.st_ino and known["changed"] == status.st_mtime_ns


def _position(database: sqlite3.Connection, part: Part, file: BinaryIO) -> tuple[int, int]:
    """Return number and offset of a part; where its file is another one than before, its rows are removed."""
    status = os.fstat(file.fileno())
    head = _bytes_at(file, 0, _HEAD)
    known = _known(database, part)
    if known is not None:
        if _is_same(file, known, status):
            return known["part"], known["offset"]
        _remove(database, known["part"])
    number = None if known is None else known["part"]
    values = (number, part.label, str(part.path), time.time_ns(), status.st_ino, head, _tail(file, 0))
    added = database.execute("INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0)", values)
    return int(added.lastrowid or 0), 0


def _is_same(file: BinaryIO, known: sqlite3.Row, status: os.stat_result) -> bool:
    """Return True where a file is the one that was read, with more lines or without."""
    if known["inode"] != status.st_ino or known["offset"] > status.st_size:
        return False
    if known["size"] == status.st_size and known["changed"] != status.st_mtime_ns:
        # It was written in its middle, or is being appended to and has its new time before its new size.
        time.sleep(_APPEND_SECONDS)
        if os.fstat(file.fileno()).st_size == known["size"]:
            return False
    head = known["head"]
    return bool(_bytes_at(file, 0, len(head)) == head and _tail(file, known["offset"]) == known["tail"])


def _read_batch(database: sqlite3.Connection, file: BinaryIO, number: int, offset: int) -> None:
    """Index the next complete lines of a file, and note how far it is read."""
    # What is appended from now on belongs to the next batch: size and time go together.
    status = os.fstat(file.fileno())
    data = _lines_at(file, offset, status.st_size)
    rows, start, damaged = [], 0, 0
    while start < len(data):
        end = data.index(b"\n", start) + 1
        try:
            rows.append((number, offset + start, end - start, *read_facts(data[start:end])))
        except (AgentFlyError, ValueError, RecursionError, KeyError, TypeError, AttributeError, OverflowError):
            damaged += bool(data[start:end].strip())
        start = end
    database.executemany(_INSERT, rows)
    after, torn = offset + len(data), 0
    if not data:
        after = _end_of_line(file, offset, status.st_size)
        damaged += after > offset
        # No end of a line is left: what is there is a line in progress.
        torn = status.st_size - offset if after == offset else 0
    database.execute(
        "UPDATE parts SET offset = ?, tail = ?, size = ?, changed = ?, torn = ?, damaged = damaged + ? WHERE part = ?",
        (after, _tail(file, after), status.st_size, status.st_mtime_ns, torn, damaged, number),
    )


def _lines_at(file: BinaryIO, offset: int, end: int) -> bytes:
    """Return complete lines from an offset on: those of one batch, or one longer line; b"" where there is none."""
    file.seek(offset)
    most, data = min(BATCH_BYTES, end - offset), b""
    while most > 0:
        more = file.read(most)
        last = more.rfind(b"\n")
        if last >= 0:
            return data + more[: last + 1]
        data += more
        most = min(BATCH_BYTES, end - offset - len(data)) if more and len(data) < LARGEST_LINE else 0
    return b""


def _end_of_line(file: BinaryIO, offset: int, end: int) -> int:
    """Return the offset after the line that begins at `offset`, or `offset` where the line has no end."""
    file.seek(offset)
    place = offset
    while place < end and (data := file.read(min(BATCH_BYTES, end - place))):
        if (found := data.find(b"\n")) >= 0:
            return place + found + 1
        place += len(data)
    return offset


def _known(database: sqlite3.Connection, part: Part) -> sqlite3.Row | None:
    found: sqlite3.Row | None = database.execute("SELECT * FROM parts WHERE path = ?", (str(part.path),)).fetchone()
    return found


def _remove(database: sqlite3.Connection, number: int) -> None:
    database.execute("DELETE FROM chains WHERE part = ?", (number,))
    database.execute("DELETE FROM parts WHERE part = ?", (number,))


def _bytes_at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


def _tail(file: BinaryIO, offset: int) -> bytes:
    """Return a digest of the bytes before an offset. They hold numbers of a line that no other line has."""
    start = max(0, offset - _TAIL)
    return hashlib.blake2b(_bytes_at(file, start, offset - start), digest_size=16).digest()
