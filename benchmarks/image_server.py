"""The cost of the image server and the node pool beside the work: throughput, latency, scaling, and a cache hit.

    python benchmarks/image_server.py [--quick] [--model-type inpaint --model-path FOLDER --device cuda] [--json FILE]

Everything is compared with its alternative in rounds that take turns, because a machine that does other work, too, is
now quick and now slow; ratios are taken round by round and shown with their spread. Aims: the server without batches at
0.97 of direct calls and with batches at 1.25, a pool of two at 1.8 of one, a cache hit below 2 ms.

The model is a tiny random checkpoint of the real class
unless one is named: what is measured is the way to the model and back. Direct calls go one after another to the same
engine class in this process; the server gets the same calls, eight at a time, with one request at once in its worker
and with batches. The pool's scaling is measured with workers that sleep, so that it does not depend on the cores here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
# One thread for each model, here as in the workers, or the direct calls would have more of the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from agentfly.serving.image_server import EngineOptions, Operation, Outcome, Work  # noqa: E402
from agentfly.serving.image_server.workers.engines import load_engine  # noqa: E402
from agentfly.vision.base import EditParams, Engines, InpaintParams  # noqa: E402
from agentfly.vision.remote import PoolSettings, remote_engines  # noqa: E402
from agentfly.vision.remote.load_test import make_image  # noqa: E402
from agentfly.vision.remote.statistics import quantile  # noqa: E402

COMMAND = "agentfly.agents.specialized.image_agent.utils.diffuser_apis"
SLEEP = 0.2
# Seconds until a server has its model.
START_LIMIT = 600.0
# Load of the machine before the run, by core, above which ratios to direct calls mean nothing.
BUSY = 0.25
Call = Callable[[int], Awaitable[object]]


@dataclass(frozen=True)
class Plan:
    """The work of a benchmark.

    Attributes:
        calls: of the model, each way and round.
        rounds: of every way.
        steps: denoising steps.
        size: side of the image.
        sleeps: requests to the sleeping workers of each pool and round.
        hits: cache hits in a round.
    """

    model_type: str
    model_path: str
    device: str = "cpu"
    calls: int = 24
    rounds: int = 5
    steps: int = 8
    size: int = 256
    concurrency: int = 8
    sleeps: int = 40
    hits: int = 50


@dataclass(frozen=True)
class Timing:
    """Calls of one way; `cpu_ms` are processor milliseconds of the server for a call, where they were measured."""

    name: str
    calls: int
    per_second: float
    p50: float
    p99: float
    cpu_ms: float | None = None


@dataclass(frozen=True)
class Ratio:
    """Throughput of two ways, round by round."""

    name: str
    median: float
    least: float
    most: float


class Sleeper:
    """An engine that takes `SLEEP` seconds, one request at a time, and no processor."""

    name = "sleeper"
    operations = frozenset((Operation.edit,))

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self, work: Work) -> Outcome:
        """The image itself, later."""
        async with self._turn:
            await asyncio.sleep(SLEEP)
        return Outcome(work.images[0])


def sleeper(options: EngineOptions) -> Sleeper:
    """For `--model-type custom`."""
    return Sleeper()


@contextmanager
def server(*flags: str) -> Iterator[tuple[str, int]]:
    """A server process, ready; its host and port."""
    port = free_port()
    command = [sys.executable, "-m", COMMAND, *flags, "--port", str(port), "--log-level", "error"]
    with running(command, port, os.pathsep.join(sys.path[:2])):
        yield "127.0.0.1", port


def free_port() -> int:
    """Return a port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[str], port: int, path: str) -> Iterator[int]:
    """A process that serves, once its `/health` answers with 200; its id.

    Args:
        command: of the process.
        port: that it listens at.
        path: its PYTHONPATH.
    """
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
    deadline = time.monotonic() + START_LIMIT
    try:
        while not _ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("the server did not start")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


async def measure(name: str, call: Call, calls: int, concurrency: int) -> Timing:
    """Time calls, `concurrency` of them at once."""
    took: list[float] = []
    numbers = iter(range(calls))

    async def client() -> None:
        for number in numbers:
            started = time.perf_counter()
            await call(number)
            took.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    per_second = calls / (time.perf_counter() - started)
    return Timing(name, calls, per_second, quantile(took, 0.5) or 0.0, quantile(took, 0.99) or 0.0)


def engine_call(plan: Plan, engines: Engines) -> Call:
    """One call of the model through the engines of an agent."""
    image, mask = make_image(plan.size)

    async def call(number: int) -> object:
        if plan.model_type == "inpaint":
            inpainting = InpaintParams(num_inference_steps=plan.steps, seed=number)
            return await engines.inpainter.inpaint(image, mask, "a cat", inpainting)
        return await engines.editor.edit(image, "a cat", EditParams(num_inference_steps=plan.steps, seed=number))

    return call


def direct_call(plan: Plan) -> Call:
    """One call of the model in this process."""
    engine = load_engine(
        EngineOptions.model_validate(
            {"model_type": plan.model_type, "model_path": plan.model_path, "device": plan.device, "area": area(plan)}
        )
    )
    image, mask = make_image(plan.size)
    operation = Operation.inpaint if plan.model_type == "inpaint" else Operation.edit

    async def call(number: int) -> object:
        given = mask if operation is Operation.inpaint else None
        return await engine.run(Work(operation, "a cat", (image,), given, num_inference_steps=plan.steps, seed=number))

    return call


def area(plan: Plan) -> int:
    """Pixels that the model works at: those of the image."""
    return plan.size * plan.size


async def through_the_server(plan: Plan, pools_seen: dict[str, object]) -> dict[str, list[Timing]]:
    """Direct calls and the same through servers without and with batches: rounds of each, in turn."""
    model = ["--model-type", plan.model_type, "--model-path", plan.model_path, "--device", plan.device]
    flags = [*model, "--area", str(area(plan)), "--worker-slots"]
    with server(*flags, "1") as plain, server(*flags, "4") as batching:
        settings = PoolSettings(initial_limit=plan.concurrency, hedge_factor=0)
        clients = [remote_engines([node], settings=settings) for node in (plain, batching)]
        ways = {
            "direct": (direct_call(plan), 1),
            "server": (engine_call(plan, clients[0]), plan.concurrency),
            "server, batches": (engine_call(plan, clients[1]), plan.concurrency),
        }
        timings = await in_turn(plan, ways)
        for name, client in zip(("server", "server, batches"), clients, strict=True):
            pools_seen[name] = client.get_statistics().to_dict()
            await client.close()
    return timings


async def in_turn(
    plan: Plan, ways: dict[str, tuple[Call, int]], processors: Mapping[str, Callable[[], float]] | None = None
) -> dict[str, list[Timing]]:
    """Rounds of every way, one way after the other, so that other work on the machine meets all of them alike.

    Args:
        plan: its calls and rounds.
        ways: a call, and how many at once.
        processors: processor seconds that the server of a way has had so far.
    """
    for name, (call, concurrency) in ways.items():
        await measure(name, call, 2 * concurrency, concurrency)
    timings: dict[str, list[Timing]] = {name: [] for name in ways}
    for number in range(plan.rounds):
        # The order turns, too: no way always comes after the same other.
        names = list(ways)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            call, concurrency = ways[name]
            seconds = (processors or {}).get(name)
            before = seconds() if seconds else 0.0
            timing = await measure(name, call, plan.calls, concurrency)
            timings[name].append(replace(timing, cpu_ms=(seconds() - before) * 1e3 / plan.calls) if seconds else timing)
    return timings


async def over_the_pool(plan: Plan, pools_seen: dict[str, object]) -> dict[str, list[Timing]]:
    """The same work on one server of sleeping workers, and on two."""
    flags = ("--model-type", "custom", "--model-path", "image_server:sleeper", "--worker-slots", "2")
    image, _ = make_image(64)
    with server(*flags) as one, server(*flags) as two:
        pools = [remote_engines(nodes, settings=PoolSettings(hedge_factor=0)) for nodes in ([one], [one, two])]

        def call_on(engines: Engines) -> Call:
            return lambda number: engines.editor.edit(image, "x", EditParams(seed=number))

        ways = {"pool of 1": (call_on(pools[0]), 16), "pool of 2": (call_on(pools[1]), 16)}
        timings = await in_turn(replace(plan, calls=plan.sleeps), ways)
        for name, pool in zip(ways, pools, strict=True):
            pools_seen[name] = pool.get_statistics().to_dict()
            await pool.close()
    return timings


async def cache_hits(plan: Plan, folder: Path) -> dict[str, list[Timing]]:
    """Hits of the tool cache with an image of 512 x 512, from memory and from disk."""
    from agentfly.vision.cached_engines import cached
    from agentfly.vision.classical import classical_engines
    from agentfly.vision.tool_cache import ToolCache

    image, _ = make_image(512)

    def call_with(memory: int) -> Call:
        engines = cached(classical_engines(), ToolCache(folder, memory_bytes=memory))
        return lambda _: engines.editor.edit(image, "brighten", EditParams())

    ways = {"cache hit, memory": (call_with(128 * 2**20), 1), "cache hit, disk": (call_with(0), 1)}
    return await in_turn(replace(plan, calls=plan.hits), ways)


def compare(timings: dict[str, list[Timing]], name: str, other: str) -> Ratio:
    """Throughput of one way to that of another, round by round."""
    values = [a.per_second / b.per_second for a, b in zip(timings[name], timings[other], strict=True)]
    return Ratio(f"{name} to {other}", statistics.median(values), min(values), max(values))


def show(console: Console, timings: dict[str, list[Timing]], ratios: list[Ratio], *, busy: bool) -> None:
    """Tables on the console: medians over the rounds, and the least and the most of them."""
    table = Table("what", "a second", "least", "most", "p50 ms", "p99 ms", title="medians of rounds")
    for name, rounds in timings.items():
        rates = [timing.per_second for timing in rounds]
        latencies = [statistics.median(getattr(t, share) for t in rounds) * 1e3 for share in ("p50", "p99")]
        table.add_row(
            name, *(f"{value:.2f}" for value in (statistics.median(rates), min(rates), max(rates), *latencies))
        )
    console.print(table)
    for ratio in ratios:
        console.print(f"{ratio.name}: {ratio.median:.2f} (rounds from {ratio.least:.2f} to {ratio.most:.2f})")
    if busy:
        # Client, server and worker are three processes that ask for processor time, direct calls are one: other work
        # may favour either side.
        console.print("the machine was busy with other work: ratios to direct calls mean nothing, run it again")


def tiny_checkpoint(folder: Path) -> str:
    """A random Stable Diffusion inpainting checkpoint."""
    from tests.tiny.stable_diffusion import sd_inpaint

    return str(sd_inpaint(folder / "sd"))


def main() -> None:
    """Run it all and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-type", choices=("inpaint", "qwen", "generic"), default="inpaint")
    parser.add_argument("--model-path", default="", help="a checkpoint; a tiny random one without it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=256, help="side of the image")
    parser.add_argument("--steps", type=int, default=8, help="denoising steps")
    parser.add_argument("--quick", action="store_true", help="a few calls of each, to see that it runs")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.model_path or tiny_checkpoint(Path(folder))
        plan = Plan(arguments.model_type, path, arguments.device, steps=arguments.steps, size=arguments.size)
        if arguments.quick:
            plan = replace(plan, calls=4, rounds=2, steps=1, size=64, concurrency=4, sleeps=16, hits=5)
        load = os.getloadavg()[0]
        pools_seen: dict[str, object] = {}
        timings = asyncio.run(run_all(plan, Path(folder) / "cache", pools_seen))
    ratios = [
        compare(timings, "server", "direct"),
        compare(timings, "server, batches", "direct"),
        compare(timings, "pool of 2", "pool of 1"),
    ]
    busy = load > BUSY * (os.cpu_count() or 1)
    show(Console(), timings, ratios, busy=busy)
    if arguments.json:
        figures = {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "load_before": load,
            "busy": busy,
            # A slow round with failures or retries here is the pool's; one without is the machine's.
            "pools": pools_seen,
            "ratios": [asdict(ratio) for ratio in ratios],
            "timings": {name: [asdict(timing) for timing in rounds] for name, rounds in timings.items()},
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


async def run_all(plan: Plan, folder: Path, pools_seen: dict[str, object]) -> dict[str, list[Timing]]:
    """Measure all parts, one after the other; what the pools counted goes into `pools_seen`."""
    timings = await through_the_server(plan, pools_seen)
    return {**timings, **await over_the_pool(plan, pools_seen), **await cache_hits(plan, folder)}


if __name__ == "__main__":
    main()
