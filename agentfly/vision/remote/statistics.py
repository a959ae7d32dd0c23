"""The statistics of a pool by node: as objects, as JSON, as a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from agentfly.errors import printable


@dataclass
class NodeCounters:
    """Counts of one node. Every attempt ends in exactly one of answered, refused, failed, busy and cancelled."""

    attempts: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    busy: int = 0
    cancelled: int = 0
    hedges_won: int = 0
    last_error: str = ""


@dataclass
class PoolCounters:
    """Counts of the pool. Every request ends in exactly one of answered, refused, timed_out, failed and cancelled."""

    requests: int = 0
    answered: int = 0
    refused: int = 0
    timed_out: int = 0
    failed: int = 0
    cancelled: int = 0
    retries: int = 0
    hedges: int = 0


@dataclass(kw_only=True)
class NodeStatistics(NodeCounters):
    """Statistics of one node: its counts until now, and its state.

    Attributes:
        attempts: requests sent to it, with retries and hedges; each is one of answered, refused (by its engine), failed
            (no usable answer), busy (no room there), cancelled (another node was quicker, or nobody waits), in_flight.
        state: unknown (not asked yet), ready, not ready, open (no requests after failures), or half open (on trial).
        limit: requests that the pool gives it at once.
        p50, p99: seconds of the last 1024 answers.
    """

    url: str
    adapter: str
    model: str
    operations: tuple[str, ...]
    state: str
    in_flight: int
    limit: float
    mean: float | None
    p50: float | None
    p99: float | None


@dataclass(kw_only=True)
class PoolStatistics(PoolCounters):
    """Statistics of the pool and its nodes: its counts until now, and what is under way.

    Attributes:
        requests: calls of engines; each is one of answered, refused, timed_out, failed, cancelled, pending.
        retries: attempts after a first one, hedges not counted.
        hedges: second attempts made because the first took unusually long.
        waiting: requests that wait for a node now.
    """

    pending: int
    waiting: int
    requests_per_minute_limit: float | None
    nodes: tuple[NodeStatistics, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the statistics in plain types."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return the statistics as JSON on one line."""
        return json.dumps(self.to_dict())

    def print(self) -> None:
        """Print the statistics as a table on the console."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console, table = Console(), Table(title=self.headline(), padding=0)
        # A host name must stay fit for copying: the other columns give way, and errors, which are long, stand below.
        table.add_column("node", no_wrap=True, overflow="fold")
        for column in ("state", "model", "in flight", "answered", "failed", "busy", "p50 s", "p99 s"):
            table.add_column(column, overflow="fold")
        for node in self.nodes:
            load = f"{node.in_flight}/{node.limit:.0f}"
            row = [node.url, node.state, node.model, load, node.answered, node.failed, node.busy]
            table.add_row(*(Text(printable(str(cell))) for cell in row), _shown(node.p50), _shown(node.p99))
        console.print(table)
        for node in self.nodes:
            if node.last_error:
                console.print(Text(printable(f"{node.url}: {node.last_error}")), soft_wrap=True)

    def headline(self) -> str:
        """Return the statistics of the pool as a sentence."""
        return (
            f"{self.requests} requests: {self.answered} answered, {self.refused} refused, {self.timed_out} timed out, "
            f"{self.failed} failed, {self.pending} pending; {self.retries} retries, {self.hedges} hedges"
        )


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the value below which a share of `values` lies (nearest rank); None without values.

    Args:
        values: in any order.
        share: 0 to 1.
    """
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _shown(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3f}"
