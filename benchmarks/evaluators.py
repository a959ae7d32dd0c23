"""The cost of scoring: milliseconds of the evaluators without a model, and a judge's throughput against its bound.

    python benchmarks/evaluators.py [--quick] [--json FILE]

Images are a photograph with an object painted into it. "local" is an edit that left the rest alone, as tools do;
"whole" is an image that was repainted everywhere, as generators do; "whole, first" the same with a source that was not
scored against before, and the slowest there is. One core: OpenCV gets one thread. Processor time is told beside the
clock's: on a machine that does other work, too, it is the figure that holds. Aim: 8 ms for the reference, whole, at
512 x 512.

The judge's server is simulated in a process of its own: so many requests at once, so many seconds each, which bounds
the throughput at slots / latency. Each sample is one request with two images of 256 x 256. Aim: 0.9 of the bound.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image, ImageChops, ImageDraw  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from agentfly.datasets.photos import load_photo  # noqa: E402
from agentfly.evaluators import (  # noqa: E402
    EditSample,
    Evaluator,
    GuardSettings,
    NotScored,
    ReferenceEvaluator,
    StructuralEvaluator,
    evaluate_many,
)
from agentfly.evaluators.judge import VlmJudge  # noqa: E402
from agentfly.evaluators.judge.settings import JudgeSettings  # noqa: E402


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one evaluation: median and least by the clock, and of processor time on the mean."""

    evaluator: str
    side: int
    edit: str
    median_ms: float
    least_ms: float
    cpu_ms: float

    @property
    def per_second(self) -> float:
        """Evaluations a second on one core that does nothing else."""
        return 1e3 / self.cpu_ms


@dataclass(frozen=True)
class Throughput:
    """Samples a second through the judge, the server's bound, their ratio, and processor time a sample on our side."""

    slots: int
    latency: float
    samples: int
    per_second: float
    bound: float
    ratio: float
    cpu_ms: float


def sample(side: int, edit: str, number: int = 0) -> EditSample:
    """A photograph of `side` x `side`, another one for each number, and a local or a whole repaint of it."""
    source = load_photo("astronaut.png").resize((side, side), Image.Resampling.BICUBIC)
    source = ImageChops.offset(source, number)
    mask = Image.new("L", source.size)
    ImageDraw.Draw(mask).ellipse((side // 4, side // 4, side // 2, side // 2), fill=255)
    target = source.copy()
    target.paste((200, 40, 60), (0, 0), mask)
    result = Image.blend(source, target, 0.9)
    if edit.startswith("whole"):
        noise = np.random.default_rng(0).normal(0, 3, (side, side, 3))
        result = Image.fromarray(np.clip(np.asarray(result) + noise, 0, 255).astype(np.uint8))
    return EditSample("paint a red ball", source, result, target, mask)


def measure(name: str, evaluator: Evaluator, side: int, edit: str, rounds: int) -> Timing:
    """Time one evaluator, the hand-over to its thread included."""
    fresh = edit.endswith("first")
    given = [sample(side, edit, number) for number in range(rounds + 1 if fresh else 1)]

    async def times() -> tuple[list[float], float]:
        await evaluator.evaluate(given[-1])
        took, busy = [], time.process_time()
        for number in range(rounds):
            started = time.perf_counter()
            await evaluator.evaluate(given[number % len(given)])
            took.append(1e3 * (time.perf_counter() - started))
        return took, 1e3 * (time.process_time() - busy) / rounds

    took, cpu = asyncio.run(times())
    return Timing(name, side, edit, statistics.median(took), min(took), cpu)


def simulated_server(ready: Connection, slots: int, latency: float) -> None:
    """A judge that always says 70, in its own process: `slots` requests at once, `latency` seconds each."""
    import uvicorn

    places = asyncio.Semaphore(slots)
    text = json.dumps({"feedback": "Fine.", "score": 70})
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 600, "completion_tokens": 20, "total_tokens": 620}
    body = json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    ).encode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        async with places:
            await asyncio.sleep(latency)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def serve() -> None:
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        running = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        ready.send(server.servers[0].sockets[0].getsockname()[1])
        await running

    asyncio.run(serve())


@contextmanager
def judge_server(slots: int, latency: float) -> Iterator[str]:
    """The address of a simulated judge, up to /v1."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=simulated_server, args=(theirs, slots, latency), daemon=True)
    process.start()
    try:
        if not ours.poll(60):
            raise RuntimeError("the simulated judge did not start")
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        process.kill()
        process.join()


def judge_throughput(slots: int, latency: float, rounds: int) -> Throughput:
    """Samples a second through the judge, `rounds` times as many samples as the server takes at once."""
    given, samples = sample(256, "whole"), slots * rounds
    with judge_server(slots, latency) as address:
        settings = JudgeSettings(model="m", base_url=address, scheme="simple", in_flight=2 * slots)
        guard = GuardSettings(in_flight=4 * slots)

        async def run() -> tuple[float, float]:
            judge = VlmJudge(settings)
            await evaluate_many(judge, [given] * slots, guard)
            started, busy = time.perf_counter(), time.process_time()
            outcomes = await evaluate_many(judge, [given] * samples, guard)
            took, used = time.perf_counter() - started, time.process_time() - busy
            if any(isinstance(outcome, NotScored) for outcome in outcomes):
                raise RuntimeError("the judge left samples without a score")
            return took, used

        took, used = asyncio.run(run())
    per_second, bound = samples / took, slots / latency
    return Throughput(slots, latency, samples, per_second, bound, per_second / bound, 1e3 * used / samples)


def show(console: Console, timings: list[Timing], throughputs: list[Throughput]) -> None:
    """Tables on the console."""
    table = Table(
        "evaluator", "side", "edit", "median ms", "least ms", "cpu ms", "a second", title="without a model, one core"
    )
    for timing in timings:
        figures = (f"{value:.2f}" for value in (timing.median_ms, timing.least_ms, timing.cpu_ms, timing.per_second))
        table.add_row(timing.evaluator, str(timing.side), timing.edit, *figures)
    console.print(table)
    table = Table("slots", "latency s", "samples", "a second", "bound", "of the bound", "cpu ms", title="judge")
    for one in throughputs:
        table.add_row(
            *(str(one.slots), f"{one.latency:g}", str(one.samples)),
            *(f"{value:.2f}" for value in (one.per_second, one.bound, one.ratio, one.cpu_ms)),
        )
    console.print(table)


def main() -> None:
    """Run it all and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few rounds of each, to see that it runs")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    sides, rounds = ((64, 128), 2) if arguments.quick else ((256, 512, 1024), 25)
    load = os.getloadavg()[0]
    timings = [
        measure(name, evaluator, side, edit, rounds)
        for name, evaluator in (("reference", ReferenceEvaluator()), ("structural", StructuralEvaluator()))
        for side in sides
        for edit in ("local", "whole", "whole, first")
    ]
    loads = [(4, 0.05, 3)] if arguments.quick else [(8, 0.5, 8), (32, 1.0, 8)]
    throughputs = [judge_throughput(*one) for one in loads]
    show(Console(), timings, throughputs)
    if arguments.json:
        figures = {
            "cores": os.cpu_count(),
            "load_before": load,
            "timings": [{**asdict(timing), "per_second": timing.per_second} for timing in timings],
            "judge": [asdict(one) for one in throughputs],
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
