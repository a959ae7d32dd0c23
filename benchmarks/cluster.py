"""Thousands of chains on hundreds of image servers: what the servers do, against the most that they could.

    python benchmarks/cluster.py [--chains 10000] [--servers 256] [--turns 4] [--json FILE]

Time is virtual: the rollout, its scheduling, the pool of servers and HTTP's client are the real ones, and hours of
waiting pass in a minute. The servers are simulated. Each does one request at a time, takes two and queues sixteen. A
request takes log-normal seconds, one in fifty takes eight times as long, one in a hundred ends with an error 500, and
each server crashes once in an hour, on average, and comes back a minute later. The model takes log-normal seconds, too.

Bounds: no schedule is faster than the slowest chain, nor than all work of the servers divided by the servers that are
up. "busy" is the share of the time of the servers that were up in which they worked on a request whose answer counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

import httpx
import virtual_time
from rich.console import Console
from rich.table import Table
from virtual_time import VirtualLoop

from agentfly.agents import Agent, AgentSettings, RolloutLimits, StopReason
from agentfly.agents.llm_backends import GenerationRequest, ScriptedBackend
from agentfly.files import write_text
from agentfly.images import ImageStore, ImageView
from agentfly.tools import ToolResult, Toolset, tool
from agentfly.vision.remote.adapters import Call
from agentfly.vision.remote.pool import NodePool
from agentfly.vision.remote.settings import NodeConfig

QUEUE = 16
_PROMPT = re.compile(rb'name="prompt"\r\n\r\n([^\r]*)')
SPENT = ("worked", "wasted", "down")
PATIENCE = 1e8  # virtual seconds: nothing is given up for being slow
BUSY = httpx.Response(503, headers={"retry-after": "1"}, json={"error": {"message": "busy"}})
MODELS = {"data": [{"id": "simulated", "owned_by": "agentfly", "version": "1", "capabilities": ["edit"], "slots": 2}]}

HELP = {
    "chains": "that run at once",
    "servers": "image servers",
    "turns": "generations of a chain; every one but the last asks for an edit",
    "errors": "share of edits that end with an error 500",
    "stragglers": "share of edits that take eight times as long",
    "crash_hours": "mean time between two crashes of a server; 0 for none",
    "seed": "of everything that is drawn",
}


@dataclass(frozen=True)
class Setup:
    """The cluster and its work.

    Attributes:
        chains, turns: chains that run at once, and generations of each; every one but the last asks for an edit.
        servers: image servers.
        model_seconds, edit_seconds: medians of the log-normal times.
        sigma: of their logarithms.
        stragglers: share of edits that take eight times as long.
        errors: share of edits that end with an error 500.
        crash_hours: mean time between two crashes of a server; it is away for a minute.
        seed: of everything that is drawn.
    """

    chains: int = 10_000
    turns: int = 4
    servers: int = 256
    model_seconds: float = 2.0
    edit_seconds: float = 5.0
    sigma: float = 0.5
    stragglers: float = 0.02
    errors: float = 0.01
    crash_hours: float = 1.0
    seed: int = 0

    def model(self, chain: int, turn: int) -> float:
        """Return the seconds of one generation."""
        return self.model_seconds * random.Random(f"{self.seed}-{chain}-{turn}").lognormvariate(0, self.sigma)

    def edit(self, chain: int, turn: int, attempt: int) -> float:
        """Return the seconds of one attempt at an edit."""
        drawn = random.Random(f"{self.seed}-{chain}-{turn}-{attempt}")
        return self.edit_seconds * drawn.lognormvariate(0, self.sigma) * (8 if drawn.random() < self.stragglers else 1)

    def slowest_chain(self) -> float:
        """Return the seconds of the slowest chain, if every server were free for it and answered at once."""
        return max(
            sum(self.model(chain, turn) for turn in range(self.turns))
            + sum(self.edit(chain, turn, 1) for turn in range(self.turns - 1))
            for chain in range(self.chains)
        )


@dataclass
class Server:
    """A simulated image server."""

    setup: Setup
    number: int
    loop: VirtualLoop
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SPENT, 0.0))
    waiting: int = 0

    def __post_init__(self) -> None:
        self._drawn = random.Random(f"{self.setup.seed}-server-{self.number}")
        self._one = asyncio.Lock()
        self._away = self._crashes = 0.0
        self._plan_crash()

    def _plan_crash(self) -> None:
        hours = self.setup.crash_hours
        self._crashes = self._away + (self._drawn.expovariate(1 / (3600 * hours)) if hours else float("inf"))

    def _is_away(self) -> bool:
        now = self.loop.time()
        if now >= self._crashes:
            self._away = self._crashes + 60.0
            self.seconds["down"] += 60.0
            self._plan_crash()
        return now < self._away

    async def answer(self, request: httpx.Request, attempts: Counter[str]) -> httpx.Response:
        """Answer a request as an image server does."""
        if self._is_away():
            raise httpx.ConnectError("nobody listens")
        if request.url.path == "/v1/models":
            return httpx.Response(200, json=MODELS)
        if request.url.path == "/health":
            return httpx.Response(200)
        if self.waiting > QUEUE:
            return BUSY
        self.waiting += 1
        try:
            async with self._one:
                found = _PROMPT.search(await request.aread())
                assert found is not None
                return await self._work(found[1].decode(), attempts)
        finally:
            self.waiting -= 1

    async def _work(self, call: str, attempts: Counter[str]) -> httpx.Response:
        attempts[call] += 1
        chain, turn = map(int, call.split("-"))
        began, takes = self.loop.time(), self.setup.edit(chain, turn, attempts[call])
        outcome = "wasted"
        try:
            await asyncio.sleep(takes)
            if self._is_away():
                raise httpx.ReadError("the server is gone")
            if self._drawn.random() < self.setup.errors:
                return httpx.Response(500, json={"error": {"message": "drawn"}})
            outcome = "worked"
            return httpx.Response(200, content=call.encode())
        finally:
            self.seconds[outcome] += self.loop.time() - began


class Desk:
    """The tool of all chains."""

    def __init__(self, pool: NodePool, answers: Counter[str]) -> None:
        self._pool, self._answers = pool, answers

    @tool
    async def edit(self, chain: int, turn: int) -> ToolResult:
        """Have a server edit an image."""
        name = f"{chain}-{turn}"
        call = Call("edit", name, b"", (64, 64))
        content = await self._pool.call("edit", lambda: call, bytes)
        if content.decode() != name:
            raise SystemExit(f"call {name} got the answer of {content!r}")
        self._answers[name] += 1
        return ToolResult("done")


class ClusterAgent(Agent):
    """An agent with a model that waits, and one tool behind a pool."""

    def __init__(self, setup: Setup, pool: NodePool) -> None:
        def text(request: GenerationRequest) -> str:
            _, chain, turn = map(int, request.request_id.split("-"))
            call = {"name": "edit", "arguments": {"chain": chain, "turn": turn}}
            return "Done." if turn == setup.turns - 1 else f"<tool_call>{json.dumps(call)}</tool_call>"

        def latency(request: GenerationRequest) -> float:
            _, chain, turn = map(int, request.request_id.split("-"))
            return setup.model(chain, turn)

        limits = RolloutLimits(
            max_turns=setup.turns, max_tool_calls=setup.turns, wall_clock=PATIENCE, tool_timeout=PATIENCE
        )
        settings = AgentSettings(limits=limits, max_concurrent_chains=setup.chains)
        super().__init__("scripted", backend=ScriptedBackend(text, latency), settings=settings, store=ImageStore())
        self._pool = pool
        self.answers: Counter[str] = Counter()

    def toolset(self, view: ImageView) -> Toolset:
        """The tool."""
        return Toolset.of(Desk(self._pool, self.answers))


@dataclass(frozen=True)
class Outcome:
    """What became of the chains and of the servers' time.

    Attributes:
        chains, answered, lost: chains in all, that came to their answer, and that ended otherwise or not at all.
        unanswered, doubled: edits without an answer, and edits whose answer a chain got twice.
        makespan: virtual seconds until the last chain ended.
        slowest_chain: seconds of the chain that would be slowest if it were alone.
        work_bound: seconds that all edits take on all servers that are up.
        busy, wasted: shares of the servers' time until the makespan.
        hedges, retries: of the pool.
        cpu_ms: processor milliseconds an edit, everything that is simulated included.
    """

    chains: int
    answered: int
    lost: int
    unanswered: int
    doubled: int
    makespan: float
    slowest_chain: float
    work_bound: float
    busy: float
    wasted: float
    hedges: int
    retries: int
    cpu_ms: float

    @property
    def over_bound(self) -> float:
        """Share of the larger bound by which the run was slower."""
        return self.makespan / max(self.slowest_chain, self.work_bound) - 1


@contextmanager
def simulated_network(handle: Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]) -> Iterator[None]:
    """Have every client of HTTP that is made meanwhile talk to a function."""
    client = partial(httpx.AsyncClient, transport=httpx.MockTransport(handle))
    with mock.patch.object(httpx, "AsyncClient", client):
        yield


async def simulate(setup: Setup, loop: VirtualLoop) -> Outcome:
    """Run the chains on the cluster, in the loop's time."""
    servers = [Server(setup, number, loop) for number in range(setup.servers)]
    attempts: Counter[str] = Counter()
    by_host = {f"server{server.number}": server for server in servers}

    async def handle(request: httpx.Request) -> httpx.Response:
        return await by_host[request.url.host].answer(request, attempts)

    pool = NodePool([NodeConfig(f"http://{host}:8000") for host in by_host], timeout=PATIENCE)
    for node in pool.nodes:
        node._clock = loop.time  # bound to the machine's clock when the class was made
    agent = ClusterAgent(setup, pool)
    conversations = [{"id": "0", "messages": [{"role": "user", "content": "Edit."}]}]
    with simulated_network(handle):
        began = time.process_time()
        result = await agent.run(conversations, num_chains=setup.chains)
        cpu, makespan = time.process_time() - began, loop.time()
        statistics = pool.get_statistics()
        await pool.close()
    edits = setup.chains * (setup.turns - 1)
    answered = sum(trajectory.stop_reason is StopReason.NO_TOOL_CALL for trajectory in result)
    total = {name: sum(server.seconds[name] for server in servers) for name in SPENT}
    up = setup.servers * makespan - total["down"]
    return Outcome(
        chains=setup.chains,
        answered=answered,
        lost=setup.chains - answered,
        unanswered=edits - len(agent.answers),
        doubled=sum(count > 1 for count in agent.answers.values()),
        makespan=makespan,
        slowest_chain=setup.slowest_chain(),
        work_bound=total["worked"] / up * makespan,
        busy=total["worked"] / up,
        wasted=total["wasted"] / up,
        hedges=statistics.hedges,
        retries=statistics.retries,
        cpu_ms=1000 * cpu / edits,
    )


def main() -> None:
    """Simulate, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    defaults = Setup()
    for name, words in HELP.items():
        value = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=words)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = vars(parser.parse_args())
    file = given.pop("json")
    outcome = virtual_time.run(partial(simulate, Setup(**given)))
    table = Table("figure", "value", title=f"{outcome.chains} chains")
    for name, value in {**asdict(outcome), "over_bound": outcome.over_bound}.items():
        table.add_row(name, f"{value:.3g}" if isinstance(value, float) and value < 100 else f"{value:.0f}")
    Console().print(table)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({**asdict(outcome), "over_bound": outcome.over_bound}, indent=2) + "\n")
    if outcome.lost or outcome.doubled or outcome.unanswered:
        sys.exit(1)


if __name__ == "__main__":
    main()
