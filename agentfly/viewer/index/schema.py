"""The tables of an index. An index of another version is made anew: everything in it comes from the run's files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from agentfly.viewer.index.lines import ChainFacts

VERSION = 1
_WAIT = 10.0  # seconds for another viewer of the same run to finish a batch

_TABLES = f"""
CREATE TABLE parts (
    part INTEGER PRIMARY KEY,
    label TEXT NOT NULL,
    path TEXT NOT NULL UNIQUE,
    file TEXT NOT NULL,      -- device, inode and first bytes of the file that was read
    offset INTEGER NOT NULL, -- bytes that were read
    tail BLOB NOT NULL,      -- the bytes before it, by which a file that was written anew is known
    damaged INTEGER NOT NULL -- lines that are no trajectories
);
CREATE TABLE chains (
    n INTEGER PRIMARY KEY,
    part INTEGER NOT NULL REFERENCES parts,
    offset INTEGER NOT NULL, -- of the line in its file
    length INTEGER NOT NULL, -- of the line, in bytes
    {", ".join(ChainFacts._fields)},
    UNIQUE (part, key)
);
CREATE INDEX chains_by_step ON chains (part, step);
CREATE INDEX chains_by_group ON chains (group_id);
CREATE INDEX chains_by_task ON chains (task);
PRAGMA user_version = {VERSION};
"""


@contextmanager
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an index for one use; rows have names.

    Raises:
        sqlite3.Error: it is damaged, or locked for too long.
    """
    # Closed each time: connections belong to their threads, and a run may be removed while it is shown.
    with closing(sqlite3.connect(path, timeout=_WAIT, isolation_level=None)) as database:
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA synchronous = OFF")
        yield database


def make_ready(path: Path) -> None:
    """Make the tables where they are missing, and make the file anew where it is of another version or damaged."""
    try:
        with connection(path) as database:
            if database.execute("PRAGMA user_version").fetchone()[0] == VERSION:
                return
    except sqlite3.DatabaseError:
        pass
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
        path.with_name(name).unlink(missing_ok=True)
    with connection(path) as database:
        database.execute("PRAGMA journal_mode = WAL")  # readers go on while a batch is written
        database.execute("BEGIN IMMEDIATE")
        if database.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            for statement in _TABLES.split(";"):
                database.execute(statement)
        database.execute("COMMIT")
