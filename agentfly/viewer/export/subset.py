"""A run of which only some chains are shown: the pages of an export know no others."""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from uuid import uuid4

from agentfly.viewer.index import Index
from agentfly.viewer.index.schema import connection
from agentfly.viewer.opened import OpenRun


def subset(run: OpenRun, chains: Collection[int], folder: Path) -> OpenRun:
    """Return a run with some of its chains, which keep their numbers.

    Args:
        run: whose index is up to date.
        chains: numbers.
        folder: for the index; it must outlive the run.
    """
    picked = copy.copy(run)
    picked.index = _Subset(run.index, chains, folder / f"{uuid4().hex}.sqlite")
    return picked


class _Subset(Index):
    """An index of some chains, which does not follow the run."""

    def __init__(self, index: Index, chains: Collection[int], path: Path) -> None:
        super().__init__(index.run)
        with connection(index.path) as whole, closing(sqlite3.connect(path)) as mine:
            whole.backup(mine)
        self.path = path
        with connection(path) as database:
            database.execute("CREATE TEMP TABLE chosen (n INTEGER PRIMARY KEY)")
            database.executemany("INSERT INTO chosen VALUES (?)", [(n,) for n in chains])
            database.execute("DELETE FROM chains WHERE n NOT IN (SELECT n FROM chosen)")

    def refresh(self, seconds: float = 0.0) -> bool:
        """Do nothing: what is left out must not come back."""
        return True
