"""The pool under random faults: whatever servers and callers do, nobody is forgotten and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from agentfly.errors import ToolError
from agentfly.vision.remote import NodeConfig, NodePool, PoolSettings, PoolStatistics, attempts
from agentfly.vision.remote import pool as pool_module
from agentfly.vision.remote.adapters import OPERATIONS, Call
from agentfly.vision.remote.node import Node
from agentfly.vision.remote.transport import Busy, Failed, Refused

SETTINGS = PoolSettings(
    initial_limit=2,
    max_limit=4,
    open_seconds=0.004,
    max_open_seconds=0.03,
    # Never again: news of a node would hide that somebody forgot to look for room.
    health_seconds=60.0,
    hedge_share=0.5,
    hedge_after=4,
)
# Each is as good as the others while a storm lasts; none of them is random when it is over.
MISHAPS = (*["answer"] * 12, "busy", "fail", "away", "refuse", "hang", "break")


class Storm:
    """Servers that misbehave by a seed, until it is over. Stands in for `Transport`."""

    seeds: random.Random
    over = False

    def __init__(self, _: PoolSettings) -> None:
        self.running: dict[str, int] = {}

    async def close(self) -> None:
        pass

    async def probe(self, node: Node) -> None:
        await asyncio.sleep(self.seeds.random() * 0.004)
        mood = "well" if self.over else self.seeds.choice((*["well"] * 8, "silent", "starting"))
        if mood == "well":
            node.operations = frozenset(OPERATIONS)
            node.record_healthy()
        elif mood == "silent":
            node.record_silence("no answer")
        else:
            node.record_starting()
        node.record_probe()

    async def send(self, node: Node, call: Call, read: Callable[[bytes], Any], deadline: float) -> Any:
        mishap = "answer" if self.over else self.seeds.choice(MISHAPS)
        await asyncio.sleep(30 if mishap == "hang" else self.seeds.random() * 0.004)
        if mishap == "busy":
            raise Busy(node, self.seeds.random() * 0.05)
        if mishap in ("fail", "away"):
            raise Failed(node, mishap, away=mishap == "away")
        if mishap == "refuse":
            raise Refused("no")
        if mishap == "break":
            raise RuntimeError("a bug")
        return read(call.image)


def balanced(statistics: PoolStatistics) -> bool:
    """Return True if every request and every attempt ended in exactly one way, and nothing is held."""
    requests = statistics.answered + statistics.refused + statistics.timed_out + statistics.failed
    return (
        statistics.requests == requests + statistics.cancelled
        and statistics.pending == statistics.waiting == 0
        and all(n.attempts == n.answered + n.refused + n.failed + n.busy + n.cancelled for n in statistics.nodes)
        and all(n.in_flight == 0 and n.limit >= 1 for n in statistics.nodes)
    )


async def ask(pool: NodePool, number: int) -> int:
    call = Call("edit", "x", str(number).encode(), (1, 1))
    return await pool.call("edit", lambda: call, int)


async def impatient(pool: NodePool, number: int, seeds: random.Random) -> None:
    """A caller who now and then leaves before the answer, at any moment of the request's way."""
    await asyncio.sleep(seeds.random() * 0.25)
    request = asyncio.create_task(ask(pool, number))
    if seeds.random() < 0.3:
        for _ in range(seeds.randrange(12)):
            await asyncio.sleep(0)
        if seeds.random() < 0.5:
            await asyncio.sleep(seeds.random() * 0.02)
        request.cancel()
    with contextlib.suppress(asyncio.CancelledError, ToolError, RuntimeError):
        assert await request == number


async def weather(seed: int, monkeypatch: pytest.MonkeyPatch) -> PoolStatistics:
    """A storm, and a calm in which every request must be answered."""
    seeds = random.Random(seed)

    class Here(Storm):
        pass

    Here.seeds = seeds
    monkeypatch.setattr(pool_module, "Transport", Here)
    pool = NodePool(
        [NodeConfig(f"http://node{index}") for index in range(seeds.randint(1, 4))],
        timeout=1.0,
        max_requests_per_minute=seeds.choice((None, 60_000)),
        settings=SETTINGS,
    )
    pool._bind()
    await asyncio.gather(*(impatient(pool, number, seeds) for number in range(40)))
    assert balanced(pool.get_statistics()), seed
    Here.over = True
    pool.timeout = 100.0
    answers = await asyncio.wait_for(asyncio.gather(*(ask(pool, number) for number in range(20))), 60)
    assert answers == list(range(20)), seed
    statistics = pool.get_statistics()
    await pool.close()
    return statistics


@pytest.mark.slow
async def test_after_any_storm_every_request_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_POLL", 0.002)
    monkeypatch.setattr(attempts, "_LEAST_DELAY", 0.002)
    before = asyncio.all_tasks()
    statistics = await asyncio.gather(*(weather(seed, monkeypatch) for seed in range(20)))
    assert all(balanced(each) for each in statistics)
    assert asyncio.all_tasks() == before
    # The storms were storms: everything that can happen did.
    nodes = [node for each in statistics for node in each.nodes]
    assert all(sum(getattr(node, name) for node in nodes) for name in ("refused", "failed", "busy", "cancelled"))
    assert all(sum(getattr(each, name) for each in statistics) for name in ("cancelled", "failed", "retries"))
