"""The tables of an index, and the file that they are in.

Everything in an index comes from the run's files. So one that is damaged is made anew, and one of another version is
left alone until its own version, which has another file name, is made.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from agentfly.errors import ConfigError
from agentfly.files import held
from agentfly.viewer.index.lines import ChainFacts

VERSION = 3
FILE_NAME = f"index-{VERSION}.sqlite"
_WAIT = 10.0  # seconds for another viewer of the same run to finish a batch
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_TABLES = f"""
CREATE TABLE parts (
    part INTEGER PRIMARY KEY,
    label TEXT NOT NULL,
    path TEXT NOT NULL UNIQUE,
    born INTEGER NOT NULL,   -- nanoseconds: when reading began; another one when it began anew
    inode INTEGER NOT NULL,  -- of the file that was read
    head BLOB NOT NULL,      -- its first bytes
    tail BLOB NOT NULL,      -- digest of the bytes before `offset`
    size INTEGER NOT NULL,   -- of the file, when it was last read
    changed INTEGER NOT NULL,-- nanoseconds: its time of change then
    offset INTEGER NOT NULL, -- bytes that were read
    torn INTEGER NOT NULL,   -- bytes after them, which have no end of a line
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
CREATE INDEX chains_by_facet ON chains (part, task_type, stop, validate, tools, alarms, step, score, reward);
CREATE INDEX chains_by_group ON chains (part, group_id, step, validate, task, task_type, reward, score);
CREATE INDEX chains_by_task ON chains (task, step);
PRAGMA user_version = {VERSION}
"""


@contextmanager
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """Open an index, which must be there, for one use; rows have names.

    Raises:
        sqlite3.Error: it is gone, damaged, or locked for too long.
    """
    # Closed each time: connections belong to their threads, and a run may be removed while it is shown.
    address = f"{path.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(address, timeout=_WAIT, isolation_level=None, uri=True)) as database:
        database.row_factory = sqlite3.Row
        # The folder of a run may come from somebody else: nothing in a schema of theirs is run.
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA synchronous = OFF")
        yield database


def is_damage(fault: sqlite3.Error) -> bool:
    """Return True where a fault means that the file is no sound index: bytes are wrong, or tables are missing."""
    code = getattr(fault, "sqlite_errorcode", 0) & 0xFF
    return code in _DAMAGED or "no such table" in str(fault) or "no such column" in str(fault)


def is_missing(fault: sqlite3.Error) -> bool:
    """Return True where a fault means that there is no index."""
    return getattr(fault, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CANTOPEN


def is_row_number(number: int) -> bool:
    """Return True for a number that a row can have. SQLite's have 64 bits; an address may name any."""
    return 0 <= number < 2**63


def file_of(path: Path) -> int:
    """Return the inode of an index by which one that was made anew is known; 0 where there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def make_anew(path: Path, unsound: int) -> None:
    """Make an index, unless another viewer has just made it.

    Args:
        path: of the index.
        unsound: see `file_of`: the file that is replaced; 0 for one that was missing.

    Raises:
        sqlite3.Error, OSError: it cannot be written.
    """
    path.parent.mkdir(exist_ok=True)  # not the folder above: a run that was removed stays so
    with _locked(path.with_suffix(".lock")):
        if file_of(path) not in (0, unsound):
            return
        # Of other versions, too.
        for pattern in ("index.sqlite*", "index-*.sqlite*", "new-index-*.sqlite*"):
            for old in path.parent.glob(pattern):
                old.unlink(missing_ok=True)
        # It gets its name when it is complete. So a viewer that looks meanwhile finds no half of an index.
        fresh = path.with_name(f"new-{path.name}")
        with closing(sqlite3.connect(fresh, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = WAL")  # readers go on while a batch is written
            database.executescript(f"BEGIN; {_TABLES}; COMMIT")
        fresh.rename(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; wait for it while another viewer makes an index, which takes milliseconds."""
    due = time.monotonic() + _WAIT
    while True:
        with ExitStack() as stack:
            try:
                stack.enter_context(held(path, str(path.parent)))
            except ConfigError:
                if time.monotonic() > due:
                    raise
                time.sleep(0.02)
                continue
            yield
            return
