"""How the cost of rollouts grows with chains, turns, pixels and image servers, and where it bends.

    python benchmarks/growth.py [--quick] [--json FILE]

Chains, turns and pixels: processor seconds of our rollout (`benchmarks/rollout.py`) whose model and tools answer at
once, so that nothing else is counted. Servers: virtual seconds of 256 chains on 1 to 8 simulated image servers
(`benchmarks/cluster.py`, without faults). The exponent is the slope of a line by least squares through the logarithms
of the upper half of a curve, where what a run costs once no longer counts: 1 is cost in proportion, 2 is a cost for
each pair, and -1 is time that falls in proportion to the servers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cluster
import virtual_time
from rich.console import Console
from rich.table import Table
from rollout import with_agentfly
from rollout_plan import Plan

from agentfly.files import write_text

AT_ONCE = Plan(8, 8, 4, model_seconds=0.0, tool_seconds=0.0)


@dataclass(frozen=True)
class Curve:
    """What a run costs at each size.

    Attributes:
        name: of what grows.
        unit: of the cost.
        sizes, costs: of the runs, in the order of the sizes.
    """

    name: str
    unit: str
    sizes: Sequence[int]
    costs: Sequence[float]

    @property
    def exponent(self) -> float:
        """Power of the size with which the cost grows, over the upper half of the sizes."""
        half = slice(len(self.sizes) // 2 - 1, None)
        logarithms = ([math.log(value) for value in values[half]] for values in (self.sizes, self.costs))
        return statistics.linear_regression(*logarithms).slope


def processor_seconds(plan: Plan) -> float:
    """Return the least processor seconds of three runs of a plan."""

    async def once(folder: Path) -> float:
        inputs = plan.inputs()
        began = time.process_time()
        await with_agentfly(plan, inputs, folder)
        return time.process_time() - began

    seconds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            seconds.append(asyncio.run(once(Path(folder))))
    return min(seconds)


def of_chains(number: int) -> float:
    """Return the cost of so many chains, eight of a prompt where there are so many."""
    group = min(8, number)
    return processor_seconds(Plan(number // group, group, 4, model_seconds=0.0, tool_seconds=0.0))


def of_turns(number: int) -> float:
    """Return the cost of 64 chains of so many turns."""
    return processor_seconds(Plan(8, 8, number, model_seconds=0.0, tool_seconds=0.0))


def of_pixels(number: int) -> float:
    """Return the cost of eight chains of four turns, each with an image of so many pixels."""
    side = math.isqrt(number)
    return processor_seconds(Plan(1, 8, 4, model_seconds=0.0, tool_seconds=0.0, images=True, side=side))


def of_servers(number: int, chains: int) -> float:
    """Return the virtual seconds of chains on so many image servers."""
    setup = cluster.Setup(chains, servers=number, errors=0.0, stragglers=0.0, crash_hours=0.0)
    return virtual_time.run(partial(cluster.simulate, setup)).makespan


def powers(first: int, last: int, step: int = 1) -> list[int]:
    """Return the powers of two from one exponent to another."""
    return [2**power for power in range(first, last + 1, step)]


def curves(*, quick: bool) -> list[Curve]:
    """Measure all curves."""
    processor_seconds(AT_ONCE)  # loads what is loaded once
    ways: Mapping[str, tuple[str, Callable[[int], float], list[int]]] = {
        "chains": ("processor s", of_chains, powers(0, 5 if quick else 9)),
        "turns": ("processor s", of_turns, powers(0, 3 if quick else 4)),
        "pixels": ("processor s", of_pixels, powers(12, 16 if quick else 22, 2)),
        "servers": ("virtual s", partial(of_servers, chains=32 if quick else 256), powers(0, 2 if quick else 3)),
    }
    return [Curve(name, unit, sizes, [cost(size) for size in sizes]) for name, (unit, cost, sizes) in ways.items()]


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    measured = curves(quick=given.quick)
    table = Table("what grows", "size: cost", "", "exponent")
    for curve in measured:
        points = "  ".join(f"{size}: {cost:.3g}" for size, cost in zip(curve.sizes, curve.costs, strict=True))
        table.add_row(curve.name, points, curve.unit, f"{curve.exponent:.2f}")
    Console(width=160).print(table)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        figures = [{**asdict(curve), "exponent": curve.exponent} for curve in measured]
        write_text(given.json, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
