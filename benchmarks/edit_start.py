"""The start of `agentfly edit`: seconds from the command to the first token, and processor seconds of the command.

    python benchmarks/edit_start.py POLICY [--rounds 3]

Once with an engine of its own for each command, and once against an endpoint that `agentfly.utils.deploy` serves. Aims:
15 s with an engine of its own, 1 s against an endpoint.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
from rich.console import Console
from rich.table import Table

from agentfly.datasets import StickerWorld
from agentfly.images import load_image, save_image

LIMIT_SECONDS = 600.0


def first_token(command: list[str]) -> tuple[float, float]:
    """Run a command; return the seconds until it shows the first token, and the processor seconds of all of it."""
    before, began = _children_seconds(), time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        limit = threading.Timer(LIMIT_SECONDS, process.kill)
        limit.start()
        assert process.stdout is not None
        found = _after(process.stdout, b"turn 1\n")
        seconds = time.monotonic() - began
        process.stdout.read()
        limit.cancel()
    if not found or process.returncode not in (0, 3):
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return seconds, _children_seconds() - before


def _after(stream: IO[bytes], mark: bytes) -> bool:
    """Read up to the first byte after a mark; False if the stream ends before."""
    seen = b""
    while not seen.endswith(mark):
        if not (byte := stream.read(1)):
            return False
        seen += byte
    return bool(stream.read(1))


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def endpoint(policy: Path) -> Iterator[str]:
    """The address of a server of the policy, up to /v1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [
        "-m",
        "agentfly.utils.deploy",
        "--model_name_or_path",
        str(policy),
        "--host",
        "127.0.0.1",
        "--port",
        port,
    ]
    server = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + LIMIT_SECONDS
        while not _answers(f"http://127.0.0.1:{port}/health"):
            if server.poll() is not None or time.monotonic() > until:
                sys.exit("the endpoint did not start")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(LIMIT_SECONDS)


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="Hugging Face folder of a small policy, such as data/warm_start")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    task = StickerWorld().task(0, "train", "named")
    with tempfile.TemporaryDirectory() as folder:
        source = save_image(load_image(task.images[0]), Path(folder) / "source.png")
        out = str(Path(folder) / "edited.png")
        edit = [sys.executable, "-u", "-m", "agentfly.cli", "edit", str(source), task.instruction, "--out", out]
        ways = {"its own engine": [first_token([*edit, "--model", str(given.policy)]) for _ in range(given.rounds)]}
        os.environ.setdefault("OPENAI_API_KEY", "EMPTY")
        with endpoint(given.policy) as address:
            ways["an endpoint"] = [first_token([*edit, "--base-url", address]) for _ in range(given.rounds)]
    table = Table("with", "s to the first token: median", "least", "processor s: median", title="agentfly edit")
    for name, rounds in ways.items():
        seconds, used = zip(*rounds, strict=True)
        figures = (statistics.median(seconds), min(seconds), statistics.median(used))
        table.add_row(name, *(f"{value:.2f}" for value in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
