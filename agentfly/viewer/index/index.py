"""Keep the index of a run up to date, and read it."""

from __future__ import annotations

import errno
import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.errors import ConfigError
from agentfly.viewer.index.query import Filters, Row
from agentfly.viewer.index.reader import read_part, remove_parts
from agentfly.viewer.index.schema import FILE_NAME, connection, file_of, is_damage, is_missing, is_row_number, make_anew
from agentfly.viewer.index.table import Place, Table, place_of, table_of
from agentfly.viewer.runs.folder import Part, RunFolder

_PATIENCE = 0.05  # seconds for another thread that reads what is new


@dataclass(frozen=True)
class State:
    """How far an index is.

    Attributes:
        chains: rows.
        read, size: bytes that were read, those of a line in progress included, and bytes of all files.
        damaged: lines that are no trajectories.
        revision: changes whenever the rows do.
        problem: the reason for which nothing new can be read, such as a full disk; "" for none.
    """

    chains: int
    read: int
    size: int
    damaged: int
    revision: str
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Everything was read."""
        return self.read >= self.size


class Index:
    """The index of a run.

    Args:
        run: what is indexed.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.path = run.home / FILE_NAME
        self._refreshing = threading.Lock()

    def refresh(self, seconds: float = 3600.0) -> bool:
        """Read what is new, for at most so many seconds; returns True if everything is read.

        Raises:
            ConfigError: the index cannot be written.
        """
        due = time.monotonic() + seconds
        # A thread that reads a long file is not waited for: what it has read can be shown.
        if not self._refreshing.acquire(timeout=min(seconds, _PATIENCE)):
            return False
        try:
            before = file_of(self.path)
            try:
                return self._read(due)
            except sqlite3.Error as fault:
                if not (is_missing(fault) or is_damage(fault)):
                    raise
                make_anew(self.path, before)
                return self._read(due)
        except (sqlite3.Error, OSError) as fault:
            raise ConfigError(f"the index {str(self.path)!r} cannot be written: {fault}: {_remedy(fault)}") from fault
        finally:
            self._refreshing.release()

    def state(self) -> State:
        """Return how far the index is.

        Raises:
            ConfigError: it cannot be read.
        """
        with self._reading() as database:
            chains, last = database.execute("SELECT COUNT(*), MAX(n) FROM chains").fetchone()
            parts = database.execute("SELECT path, born, offset, torn, damaged FROM parts ORDER BY part").fetchall()
        read, damaged = sum(part["offset"] + part["torn"] for part in parts), sum(part["damaged"] for part in parts)
        size = sum(_size(Path(part["path"])) for part in parts)
        files = hashlib.sha256(repr([(part["born"], part["offset"]) for part in parts]).encode()).hexdigest()[:12]
        return State(chains, read, max(size, read), damaged, f"{files}-{chains}-{last or 0}")

    def rows(self, filters: Filters) -> tuple[list[Row], int]:
        """Return one page of the chains that filters let through, and the number of all of them."""
        found = self.table(filters)
        return found.rows, found.total

    def table(self, filters: Filters) -> Table:
        """Return one page of the chains that filters let through, with the numbers behind each choice of a filter."""
        with self._reading() as database:
            return table_of(database, filters)

    def place(self, filters: Filters, n: int) -> Place | None:
        """Return the place of a chain in the table of filters; None where they do not let it through."""
        with self._reading() as database:
            return place_of(database, filters, n)

    def row(self, n: int) -> Row:
        """Return one chain.

        Raises:
            KeyError: there is none of this number.
        """
        if not is_row_number(n):
            raise KeyError(n)
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
        path = self.part(row.part).path
        try:
            with path.open("rb") as file:
                file.seek(row.offset)
                line = file.read(row.length)
        except OSError as fault:
            raise ConfigError(f"{str(path)!r} cannot be read: {fault.strerror}") from fault
        if len(line) < row.length or not line.endswith(b"\n"):
            raise ConfigError(f"{str(path)!r} has changed: load the page again")
        return line

    def part(self, number: int) -> Part:
        """Return a part of the run.

        Raises:
            KeyError: there is none of this number.
        """
        if not is_row_number(number):
            raise KeyError(number)
        for found in self.query("SELECT path FROM parts WHERE part = ?", number):
            for part in self.run.parts():
                if str(part.path) == found["path"]:
                    return part
        raise KeyError(number)

    def _read(self, due: float) -> bool:
        with connection(self.path) as database:
            parts = self.run.parts()
            remove_parts(database, parts)
            # Every part gets its turn, even when time is over.
            done = [read_part(database, part, due) for part in parts]
            return all(done)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        before = file_of(self.path)
        try:
            with connection(self.path) as database:
                yield database
        except sqlite3.Error as fault:
            if is_damage(fault):
                # Damage that is met only by readers would stay otherwise, since a refresh reads few pages of the file.
                make_anew(self.path, before)
            raise ConfigError(f"the index {str(self.path)!r} cannot be read: {fault}: load the page again") from fault


def _remedy(fault: Exception) -> str:
    code = getattr(fault, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or getattr(fault, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return "make room on the disk"
    return "another viewer of the run is stuck: stop it" if code == sqlite3.SQLITE_BUSY else "remove it"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
