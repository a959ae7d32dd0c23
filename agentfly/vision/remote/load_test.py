"""A load test of image servers: `python -m agentfly.vision.remote.load_test --nodes localhost:8000 localhost:8001`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console

from agentfly.errors import AgentFlyError, ToolError
from agentfly.vision.base import EditParams, Engines, InpaintParams
from agentfly.vision.remote.adapters import OPERATIONS
from agentfly.vision.remote.engines import RemoteEngines, remote_engines
from agentfly.vision.remote.settings import read_nodes
from agentfly.vision.remote.statistics import PoolStatistics, quantile


@dataclass(frozen=True)
class Load:
    """What to send.

    Attributes:
        operations: taken in turn.
        size: side of the square image, in pixels.
        steps: denoising steps; None leaves them to the server.
    """

    requests: int = 100
    concurrency: int = 8
    operations: tuple[str, ...] = ("edit",)
    prompt: str = "brighten"
    size: int = 512
    steps: int | None = None


@dataclass(frozen=True)
class Report:
    """What came of it. Seconds are of answered requests, from the call to the decoded image."""

    answered: int
    errors: dict[str, int]
    seconds: float
    per_second: float
    p50: float | None
    p99: float | None


async def run_load(engines: Engines, load: Load) -> Report:
    """Send a load, each request with a seed of its own so that no cache can answer."""
    image, mask = make_image(load.size)
    took: list[float] = []
    errors: dict[str, int] = {}
    numbers = iter(range(load.requests))

    async def client() -> None:
        for number in numbers:
            started = time.perf_counter()
            try:
                await _send(engines, load, number, image, mask)
            except ToolError as fault:
                errors[str(fault)] = errors.get(str(fault), 0) + 1
            else:
                took.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(load.concurrency)))
    seconds = time.perf_counter() - started
    return Report(len(took), errors, seconds, len(took) / seconds, quantile(took, 0.5), quantile(took, 0.99))


async def _send(engines: Engines, load: Load, number: int, image: Image.Image, mask: Image.Image) -> None:
    operation = load.operations[number % len(load.operations)]
    if operation == "detect":
        await engines.detector.detect(image, load.prompt, box_threshold=0.35, text_threshold=0.25)
    elif operation == "inpaint":
        inpainting = InpaintParams(num_inference_steps=load.steps, seed=number)
        await engines.inpainter.inpaint(image, mask, load.prompt, inpainting)
    else:
        await engines.editor.edit(image, load.prompt, EditParams(num_inference_steps=load.steps, seed=number))


def make_image(size: int) -> tuple[Image.Image, Image.Image]:
    """A square image with gradients and a red circle, and the mask of the circle."""
    ramp = np.linspace(40, 200, size).astype(np.uint8)
    pixels = np.stack(
        [np.tile(ramp, (size, 1)), np.tile(ramp[:, None], (1, size)), np.full((size, size), 90, np.uint8)]
    )
    image, mask = Image.fromarray(np.moveaxis(pixels, 0, -1).copy()), Image.new("L", (size, size), 0)
    circle = (size // 4, size // 4, size // 2, size // 2)
    ImageDraw.Draw(image).ellipse(circle, fill=(220, 20, 30), outline="white", width=max(1, size // 50))
    ImageDraw.Draw(mask).ellipse(circle, fill=255)
    return image, mask


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a load test and print what came of it; exit code 1 unless every request was answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add, usual = parser.add_argument, Load()
    add("--nodes", nargs="+", required=True, metavar="HOST:PORT", help="the servers")
    add("--nodes-key-env", default=None, help="environment variable with the key of the servers")
    add("--requests", type=int, default=usual.requests, help="number of requests")
    add("--concurrency", type=int, default=usual.concurrency, help="most requests at the same time")
    add(
        "--operations", nargs="+", choices=OPERATIONS, default=list(usual.operations), help="operations to send in turn"
    )
    add("--prompt", default=usual.prompt, help="prompt of every request")
    add("--size", type=int, default=usual.size, help="side of the image, in pixels")
    add("--steps", type=int, default=None, help="denoising steps")
    add("--max-requests-per-minute", type=int, default=None, help="rate limit of the pool")
    add("--timeout", type=float, default=600.0, help="seconds a request may take")
    add("--json", action="store_true", help="print JSON instead of tables")
    parsed = parser.parse_args(arguments)
    load = Load(parsed.requests, parsed.concurrency, tuple(parsed.operations), parsed.prompt, parsed.size, parsed.steps)
    try:
        engines = remote_engines(
            read_nodes(parsed.nodes, "--nodes", parsed.nodes_key_env),
            max_requests_per_minute=parsed.max_requests_per_minute,
            timeout=parsed.timeout,
        )
        report, statistics = asyncio.run(_run(engines, load))
    except AgentFlyError as fault:
        sys.exit(f"error: {fault}")
    _show(report, statistics, as_json=parsed.json)
    sys.exit(0 if report.answered == load.requests else 1)


async def _run(engines: RemoteEngines, load: Load) -> tuple[Report, PoolStatistics]:
    try:
        return await run_load(engines, load), engines.get_statistics()
    finally:
        await engines.close()


def _show(report: Report, statistics: PoolStatistics, *, as_json: bool) -> None:
    if as_json:
        Console().print_json(json.dumps({**asdict(report), "pool": statistics.to_dict()}))
        return
    statistics.print()
    p50, p99 = report.p50 or 0.0, report.p99 or 0.0
    console = Console(highlight=False)
    console.print(f"{report.answered} answered in {report.seconds:.1f} s: {report.per_second:.2f} a second")
    console.print(f"latency: p50 {p50:.3f} s, p99 {p99:.3f} s")
    for text, count in report.errors.items():
        console.print(f"{count} x {text}", markup=False)


if __name__ == "__main__":
    main()
