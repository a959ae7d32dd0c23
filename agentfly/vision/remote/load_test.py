"""A load test of image servers: `python -m agentfly.vision.remote.load_test --nodes localhost:8000 localhost:8001`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageDraw
from rich.console import Console
from rich.text import Text

from agentfly.errors import AgentFlyError, ToolError, printable
from agentfly.list_options import ANY_VALUE, ListOptionsCommand
from agentfly.vision.base import EditParams, Engines, InpaintParams
from agentfly.vision.remote.engines import remote_engines
from agentfly.vision.remote.settings import read_nodes
from agentfly.vision.remote.statistics import PoolStatistics, quantile


@dataclass(frozen=True)
class Load:
    """The requests of a load test.

    Attributes:
        requests: number of requests.
        concurrency: most requests at the same time.
        operations: taken in turn.
        prompt: of every request.
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
    """The outcome of a load test.

    Attributes:
        answered: number of requests that were answered.
        errors: how often each error message came.
        seconds: length of the whole test.
        per_second: answered requests in a second.
        p50, p99: seconds of answered requests, from the call to the decoded image; None without one.
    """

    answered: int
    errors: dict[str, int]
    seconds: float
    per_second: float
    p50: float | None
    p99: float | None

    def print(self) -> None:
        """Print the outcome on the console."""
        console = Console(highlight=False)
        console.print(f"{self.answered} answered in {self.seconds:.1f} s: {self.per_second:.2f} a second")
        console.print(f"latency: p50 {self.p50 or 0.0:.3f} s, p99 {self.p99 or 0.0:.3f} s")
        for text, count in self.errors.items():
            console.print(Text(printable(f"{count} x {text}")))


async def run_load(engines: Engines, load: Load) -> Report:
    """Send a load, each request with a seed of its own so that no cache can answer.

    Args:
        engines: on the image servers to test.
        load: the requests.
    """
    image, mask = make_image(load.size)
    took: list[float] = []
    errors: dict[str, int] = {}
    numbers = iter(range(load.requests))

    async def client() -> None:
        for number in numbers:
            started = time.perf_counter()
            try:
                operation = load.operations[number % len(load.operations)]
                if operation == "detect":
                    await engines.detector.detect(image, load.prompt, box_threshold=0.35, text_threshold=0.25)
                elif operation == "inpaint":
                    inpainting = InpaintParams(num_inference_steps=load.steps, seed=number)
                    await engines.inpainter.inpaint(image, mask, load.prompt, inpainting)
                else:
                    editing = EditParams(num_inference_steps=load.steps, seed=number)
                    await engines.editor.edit(image, load.prompt, editing)
            except ToolError as fault:
                errors[str(fault)] = errors.get(str(fault), 0) + 1
            else:
                took.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(load.concurrency)))
    seconds = time.perf_counter() - started
    return Report(len(took), errors, seconds, len(took) / seconds, quantile(took, 0.5), quantile(took, 0.99))


def make_image(size: int) -> tuple[Image.Image, Image.Image]:
    """Return a square image with gradients and a red circle, and the mask of the circle; `size` is in pixels."""
    ramp = np.linspace(40, 200, size).astype(np.uint8)
    pixels = np.stack(
        [np.tile(ramp, (size, 1)), np.tile(ramp[:, None], (1, size)), np.full((size, size), 90, np.uint8)]
    )
    image, mask = Image.fromarray(np.moveaxis(pixels, 0, -1).copy()), Image.new("L", (size, size), 0)
    circle = (size // 4, size // 4, size // 2, size // 2)
    ImageDraw.Draw(image).ellipse(circle, fill=(220, 20, 30), outline="white", width=max(1, size // 50))
    ImageDraw.Draw(mask).ellipse(circle, fill=255)
    return image, mask


class Operations(StrEnum):
    """The operations of image servers, as choices of an option."""

    edit = "edit"
    inpaint = "inpaint"
    detect = "detect"


class LoadTestCommand(ListOptionsCommand):
    """The command line of the load test: `--nodes` and `--operations` take several values."""

    list_options = MappingProxyType({"--nodes": ANY_VALUE, "--operations": ANY_VALUE})


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_USUAL = Load()


@app.command(cls=LoadTestCommand)
def load_test(
    nodes: Annotated[list[str], typer.Option(help="The servers.", metavar="HOST:PORT...")],
    nodes_key_env: Annotated[str | None, typer.Option(help="Environment variable with the key of the servers.")] = None,
    requests: Annotated[int, typer.Option(help="Number of requests.")] = _USUAL.requests,
    concurrency: Annotated[int, typer.Option(help="Most requests at the same time.")] = _USUAL.concurrency,
    operations: Annotated[list[Operations], typer.Option(help="Operations to send in turn.")] = [Operations.edit],  # noqa: B006
    prompt: Annotated[str, typer.Option(help="Prompt of every request.")] = _USUAL.prompt,
    size: Annotated[int, typer.Option(help="Side of the image, in pixels.")] = _USUAL.size,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    max_requests_per_minute: Annotated[int | None, typer.Option(help="Rate limit of the pool.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Send requests to image servers and print what came of them; exit code 1 unless every request was answered."""
    load = Load(requests, concurrency, tuple(operations), prompt, size, steps)
    engines = remote_engines(
        read_nodes(nodes, "--nodes", nodes_key_env), max_requests_per_minute=max_requests_per_minute, timeout=timeout
    )

    async def run() -> tuple[Report, PoolStatistics]:
        try:
            return await run_load(engines, load), engines.get_statistics()
        finally:
            await engines.close()

    report, statistics = asyncio.run(run())
    if as_json:
        Console().print_json(json.dumps({**asdict(report), "pool": statistics.to_dict()}))
    else:
        statistics.print()
        report.print()
    raise typer.Exit(0 if report.answered == load.requests else 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; our own errors end it with one line and exit code 1."""
    try:
        app(arguments, prog_name="python -m agentfly.vision.remote.load_test")
    except AgentFlyError as fault:
        sys.exit(f"error: {fault}")


if __name__ == "__main__":
    main()
