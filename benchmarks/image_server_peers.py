"""The image server next to what else people put a pipeline behind: throughput, latency, processor time.

    python benchmarks/image_server_peers.py [--quick] [--envs FOLDER] [--json FILE]

The same tiny inpainting pipeline behind our server, behind a plain FastAPI application with a lock, and behind Ray
Serve with `@serve.batch`. Eight clients send the same requests to each; rounds take turns, and ratios are taken round
by round. All servers have one copy of the model, one thread for it, and batches of up to four where they make batches.
Processor time is that of all processes of a server.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import httpx
import psutil
import ray
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))
from image_server import (
    BUSY,
    COMMAND,
    ROOT,
    Call,
    Plan,
    Ratio,
    Timing,
    area,
    compare,
    free_port,
    in_turn,
    running,
    show,
    tiny_checkpoint,
)
from peers import Peer, Unavailable, python_of

from agentfly.vision.remote.load_test import make_image

SERVERS = ROOT / "benchmarks" / "peer_servers"
OURS, PLAIN, RAY = "agentfly", "FastAPI and a lock", "Ray Serve"
RAY_PEER = Peer(RAY, "server_ray.py", (f"ray[serve]=={ray.__version__}",))


def commands(
    plan: Plan, envs: Path, names: tuple[str, ...] = ("",)
) -> tuple[dict[str, tuple[list[str], int, str]], dict[str, str]]:
    """Return command, port and PYTHONPATH of each server, and the reasons of those that cannot run.

    Args:
        plan: model and size.
        envs: folder of the environment of Ray Serve, which takes torch and diffusers from this one.
        names: beginnings of the names of the servers to start.
    """
    ports = [free_port() for _ in range(3)]
    flags = ["--model-type", "inpaint", "--model-path", plan.model_path, "--area", str(area(plan))]
    ours = [sys.executable, "-m", COMMAND, *flags, "--worker-slots", "4", "--log-level", "error"]
    plain = [sys.executable, str(SERVERS / "server_plain.py"), plan.model_path, str(ports[1])]
    found = {
        OURS: ([*ours, "--port", str(ports[0])], ports[0], str(ROOT)),
        PLAIN: (plain, ports[1], ""),
    }
    found = {name: start for name, start in found.items() if name.startswith(names)}
    if not RAY.startswith(names):
        return found, {}
    try:
        python = python_of(RAY_PEER, envs)
    except Unavailable as fault:
        return found, {RAY: str(fault)}
    (here,) = {path for path in sys.path if path.endswith("site-packages") and (Path(path) / "torch").is_dir()}
    serving = [str(python), str(SERVERS / "server_ray.py"), plan.model_path, str(ports[2])]
    # Behind its own packages: a path from the environment would come before them.
    packages = next(python.parents[1].glob("lib/python*/site-packages"))
    (packages / "of_this_environment.pth").write_text(f"{here}\n", encoding="utf-8")
    return {**found, RAY: (serving, ports[2], "")}, {}


def call_of(client: httpx.AsyncClient, plan: Plan, port: int) -> Call:
    """Return a call of the server at a port: the same JSON for all."""
    texts = []
    for image in make_image(plan.size):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        texts.append(base64.b64encode(buffer.getvalue()).decode())
    body = {"image": texts[0], "mask": texts[1], "prompt": "a cat", "num_inference_steps": plan.steps}

    async def call(number: int) -> object:
        answer = await client.post(f"http://127.0.0.1:{port}/v1/images/edits", json={**body, "seed": number})
        return base64.b64decode(answer.raise_for_status().json()["image"])

    return call


def processor_of(pid: int) -> Callable[[], float]:
    """Return a function of the processor seconds that a process and all below it have had."""

    def seconds() -> float:
        process, total = psutil.Process(pid), 0.0
        for one in [process, *process.children(recursive=True)]:
            try:
                times = one.cpu_times()
                total += times.user + times.system
            except psutil.NoSuchProcess:
                continue
        return total

    return seconds


async def compare_servers(
    plan: Plan, envs: Path, names: tuple[str, ...]
) -> tuple[dict[str, list[Timing]], dict[str, str]]:
    """Start all servers and measure them in turn; return the timings, and the reasons of those that cannot run."""
    starts, reasons = commands(plan, envs, names)
    ways: dict[str, tuple[Call, int]] = {}
    processors: dict[str, Callable[[], float]] = {}
    async with httpx.AsyncClient(timeout=300, trust_env=False) as client:
        with ExitStack() as stack:
            for name, (command, port, path) in starts.items():
                try:
                    processors[name] = processor_of(stack.enter_context(running(command, port, path)))
                except SystemExit as fault:
                    reasons[name] = str(fault)
                    continue
                ways[name] = call_of(client, plan, port), plan.concurrency
            return await in_turn(plan, ways, processors), reasons


def show_all(
    console: Console, timings: dict[str, list[Timing]], ratios: list[Ratio], reasons: dict[str, str], *, busy: bool
) -> None:
    """Print the tables, and a line for each server that did not run."""
    show(console, timings, ratios, busy=busy)
    table = Table("server", "CPU ms a request, rounds")
    for name, rounds in timings.items():
        table.add_row(name, " ".join(f"{timing.cpu_ms:.1f}" for timing in rounds))
    for name, reason in reasons.items():
        table.add_row(name, reason)
    console.print(table)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=128, help="side of the image")
    parser.add_argument("--steps", type=int, default=8, help="denoising steps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--servers", default="", help="names, or beginnings of names, by commas; all by default")
    parser.add_argument("--quick", action="store_true", help="a few calls of each, to see that it runs")
    parser.add_argument("--envs", type=Path, help="folder of the environments; beside the output by default")
    parser.add_argument("--json", type=Path, default=Path("outputs/image_server_peers.json"), help="for the figures")
    given = parser.parse_args()
    given.json.parent.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_checkpoint(Path(folder))
        plan = Plan("inpaint", path, calls=32, rounds=given.rounds, steps=given.steps, size=given.size)
        if given.quick:
            plan = replace(plan, calls=8, rounds=1, steps=1, size=64)
        names = tuple(given.servers.split(","))
        timings, reasons = asyncio.run(compare_servers(plan, given.envs or given.json.parent / "peer_envs", names))
    ratios = [compare(timings, OURS, name) for name in timings if OURS in timings and name != OURS]
    show_all(Console(), timings, ratios, reasons, busy=load > BUSY * (os.cpu_count() or 1))
    figures = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": load,
        "plan": asdict(replace(plan, model_path="")),
        "not_run": reasons,
        "ratios": [asdict(ratio) for ratio in ratios],
        "timings": {name: [asdict(timing) for timing in rounds] for name, rounds in timings.items()},
    }
    given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
