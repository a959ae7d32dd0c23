"""Keep the index of a run up to date, and read it.

`refresh` reads what was appended since the last time, in batches, each of which is a transaction that also notes how
far the file was read. So two viewers may share an index, and one that is killed leaves a sound one. A file that was cut
or replaced, as at a resume from a checkpoint, is read anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.errors import AgentFlyError, ConfigError
from agentfly.viewer.index.lines import ChainFacts, read_facts
from agentfly.viewer.index.query import Filters, Row, rows_of
from agentfly.viewer.index.schema import connection, make_ready
from agentfly.viewer.runs.folder import Part, RunFolder

_BATCH_BYTES = 4 * 2**20
_LARGEST_LINE = 512 * 2**20
_HEAD, _TAIL = 256, 64  # bytes by which a file is known again

_INSERT = f"""INSERT OR REPLACE INTO chains (part, offset, length, {", ".join(ChainFacts._fields)})
VALUES ({", ".join("?" * (3 + len(ChainFacts._fields)))})"""


@dataclass(frozen=True)
class State:
    """How far an index is.

    Attributes:
        chains: rows.
        read, size: bytes that were read, and bytes of all files.
        damaged: lines that are no trajectories.
        revision: changes whenever the rows do.
    """

    chains: int
    read: int
    size: int
    damaged: int
    revision: str

    @property
    def complete(self) -> bool:
        """Everything was read but a line in progress."""
        return self.read >= self.size


class Index:
    """The index of a run.

    Args:
        run: what is indexed.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.path = run.home / "index.sqlite"
        self._ready = False
        self._refreshing = threading.Lock()

    def refresh(self, seconds: float = 3600.0) -> bool:
        """Read what is new, for at most so many seconds; returns True if everything is read.

        Raises:
            ConfigError: the run is gone, or the index cannot be written.
        """
        if not self.run.path.exists():
            raise ConfigError(f"the run {str(self.run.path)!r} is gone")
        due = time.monotonic() + seconds
        if not self._refreshing.acquire(timeout=seconds):
            return False
        try:
            if not self._ready or not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                make_ready(self.path)
                self._ready = True
            with connection(self.path) as database:
                # Every part gets its turn, even when time is over.
                done = [self._refresh_part(database, part, due) for part in self.run.parts()]
                return all(done)
        except (sqlite3.Error, OSError) as fault:
            raise ConfigError(f"the index {str(self.path)!r} cannot be written: {fault}: remove it") from fault
        finally:
            self._refreshing.release()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Open the index to read it. It is made where it is missing: an image may be asked for before any page."""
        if not self.path.exists():
            self.refresh(0.0)
        try:
            with connection(self.path) as database:
                yield database
        except sqlite3.Error as fault:
            raise ConfigError(f"the index {str(self.path)!r} cannot be read: {fault}: load the page again") from fault

    def state(self) -> State:
        """Return how far the index is."""
        with self._reading() as database:
            chains, last = database.execute("SELECT COUNT(*), MAX(n) FROM chains").fetchone()
            parts = database.execute("SELECT path, file, offset, damaged FROM parts").fetchall()
        read, damaged = sum(part["offset"] for part in parts), sum(part["damaged"] for part in parts)
        size = sum(_size(Path(part["path"])) for part in parts)
        files = hashlib.sha256("".join(part["file"] for part in parts).encode()).hexdigest()[:8]
        return State(chains, read, max(size, read), damaged, f"{files}-{chains}-{last or 0}-{read}")

    def rows(self, filters: Filters) -> tuple[list[Row], int]:
        """Return one page of the chains that filters let through, and the number of all of them."""
        with self._reading() as database:
            return rows_of(database, filters)

    def row(self, n: int) -> Row:
        """Return one chain.

        Raises:
            KeyError: there is none of this number.
        """
        with self._reading() as database:
            found = database.execute(
                "SELECT chains.*, parts.label FROM chains JOIN parts USING (part) WHERE n = ?", (n,)
            ).fetchone()
        if found is None:
            raise KeyError(n)
        return Row.of(found)

    def query(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """Return the rows of a statement over the tables of `agentfly.viewer.index.schema`."""
        with self._reading() as database:
            return database.execute(sql, values).fetchall()

    def line(self, n: int) -> TrajectoryLine:
        """Return the whole line of a chain.

        Raises:
            KeyError: there is no such chain.
            ConfigError: its file is gone, or has changed.
        """
        try:
            return TrajectoryLine.from_dict(json.loads(self.raw_line(n)))
        except (ValueError, RecursionError) as fault:
            raise ConfigError(f"the line of chain {n} cannot be read: {fault}") from fault

    def raw_line(self, n: int) -> bytes:
        """Return the bytes of a chain's line; see `line`."""
        row = self.row(n)
        part = self.query("SELECT path FROM parts WHERE part = ?", row.part)[0]
        try:
            with open(part["path"], "rb") as file:
                file.seek(row.offset)
                line = file.read(row.length)
        except OSError as fault:
            raise ConfigError(f"{part['path']!r} cannot be read: {fault.strerror}") from fault
        if len(line) < row.length or not line.endswith(b"\n"):
            raise ConfigError(f"{part['path']!r} has changed: load the page again")
        return line

    def part(self, number: int) -> Part:
        """Return a part of the run.

        Raises:
            KeyError: there is none of this number.
        """
        for found in self.query("SELECT path FROM parts WHERE part = ?", number):
            for part in self.run.parts():
                if str(part.path) == found["path"]:
                    return part
        raise KeyError(number)

    def _refresh_part(self, database: sqlite3.Connection, part: Part, due: float) -> bool:
        try:
            file = part.path.open("rb")
        except FileNotFoundError:
            return True
        with file:
            while True:
                database.execute("BEGIN IMMEDIATE")
                try:
                    number, offset = _position(database, part, file)
                    size = os.fstat(file.fileno()).st_size
                    read = _read_batch(database, file, number, offset) if offset < size else 0
                    database.execute("COMMIT")
                except BaseException:
                    database.execute("ROLLBACK")
                    raise
                if not read or offset + read >= size:
                    return True
                if time.monotonic() >= due:
                    return False


def _position(database: sqlite3.Connection, part: Part, file: Any) -> tuple[int, int]:
    """Return number and offset of a part; where its file is another one than before, its rows are removed."""
    status = os.fstat(file.fileno())
    file.seek(0)
    head = file.read(_HEAD)
    known = database.execute("SELECT * FROM parts WHERE path = ?", (str(part.path),)).fetchone()
    if known is not None:
        old_head = json.loads(known["file"])
        file.seek(max(0, known["offset"] - _TAIL))
        same = status.st_size >= known["offset"] and file.read(min(_TAIL, known["offset"])) == known["tail"]
        if same and old_head[0] == status.st_ino and head.hex().startswith(old_head[1]):
            return known["part"], known["offset"]
        database.execute("DELETE FROM chains WHERE part = ?", (known["part"],))
        database.execute("DELETE FROM parts WHERE part = ?", (known["part"],))
    identity = json.dumps([status.st_ino, head.hex(), time.time_ns()])
    values = (None if known is None else known["part"], part.label, str(part.path), identity)
    added = database.execute("INSERT INTO parts VALUES (?, ?, ?, ?, 0, x'', 0)", values)
    return int(added.lastrowid or 0), 0


def _read_batch(database: sqlite3.Connection, file: Any, number: int, offset: int) -> int:
    """Index the next complete lines of a file; returns their bytes, 0 where there is no complete one."""
    file.seek(offset)
    data = file.read(_BATCH_BYTES)
    if b"\n" not in data:
        data += file.readline(_LARGEST_LINE)
    whole = data.rfind(b"\n") + 1
    rows, start, damaged = [], 0, 0
    while start < whole:
        end = data.index(b"\n", start) + 1
        try:
            rows.append((number, offset + start, end - start, *read_facts(data[start:end])))
        except (AgentFlyError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
            damaged += bool(data[start:end].strip())
        start = end
    database.executemany(_INSERT, rows)
    tail = data[max(0, whole - _TAIL) : whole]
    if whole < _TAIL and offset:
        file.seek(max(0, offset + whole - _TAIL))
        tail = file.read(min(_TAIL, offset + whole))
    database.execute(
        "UPDATE parts SET offset = ?, tail = ?, damaged = damaged + ? WHERE part = ?",
        (offset + whole, tail, damaged, number),
    )
    return whole


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
