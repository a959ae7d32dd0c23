"""The work that every loop does, and the measurement of the process that does it.

Run by the Python of each peer's own environment, so nothing but the standard library and Pillow is imported.
"""

from __future__ import annotations

import base64
import io
import json
import random
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rollout_plan import Plan, peak_mib

FAULTS = ("HTTP 500", "cut connection", "bad JSON", "tool raises")
MODEL = "scripted"
TASK = "Paint on the image, one call of a tool at a time."
SYSTEM = "You edit images with tools."
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "paint",
            "description": "Paint a rectangle on the image.",
            "parameters": {
                "type": "object",
                "properties": {"chain": {"type": "integer"}, "turn": {"type": "integer"}},
                "required": ["chain", "turn"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "final_answer",
            "description": "Finish.",
            "parameters": {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]},
        },
    },
]


@dataclass(frozen=True)
class Job:
    """One run of one loop, as JSON on the command line of its process.

    Attributes:
        url: of the scripted server, without a path.
        run: name of the run on the server.
        chains: all at the same time.
        turns: of a chain; every one but the last asks for an edit.
        size: side of the images, in pixels.
        model_seconds, tool_seconds: medians of the waits.
        faults: share of the turns with an edit that meet a fault, of each of `FAULTS`.
        seed: of waits and faults.
        folder: a place for what a loop keeps on disk; empty where it keeps nothing.
    """

    url: str
    run: str
    chains: int
    turns: int
    size: int
    model_seconds: float = 0.5
    tool_seconds: float = 0.25
    faults: float = 0.0
    seed: int = 0
    folder: str = ""

    @cached_property
    def plan(self) -> Plan:
        """The waits."""
        return Plan(self.chains, 1, self.turns, self.model_seconds, self.tool_seconds, images=True, seed=self.seed)

    @cached_property
    def faulty(self) -> dict[tuple[int, int], str]:
        """The fault of each chain and turn that meets one, the first time it is tried."""
        drawn = random.Random(f"faults {self.seed}")
        places = [(chain, turn) for chain in range(self.chains) for turn in range(self.turns - 1)]
        shares = [(place, drawn.random()) for place in places]
        return {place: FAULTS[int(share / self.faults)] for place, share in shares if share < len(FAULTS) * self.faults}

    @property
    def base_url(self) -> str:
        """Address for an OpenAI client."""
        return f"{self.url}/{self.run}/v1"

    @cached_property
    def photos(self) -> list[Image.Image]:
        """The image of each chain: smooth noise, which a PNG shrinks about as little as a photo."""
        return [photo(chain, self.size) for chain in range(self.chains)]


def photo(chain: int, size: int) -> Image.Image:
    """Return the image that a chain starts from."""
    noise = Image.frombytes("RGB", (48, 48), random.Random(chain).randbytes(48 * 48 * 3))
    return noise.resize((size, size), Image.Resampling.BICUBIC)


def paint(image: Image.Image, turn: int) -> Image.Image:
    """Return an image with another rectangle on it: the edit, the same for every loop."""
    painted, side = image.copy(), image.width // 4
    left, top = turn * 37 % (image.width - side), turn * 53 % (image.height - side)
    ImageDraw.Draw(painted).rectangle((left, top, left + side, top + side), fill=(turn * 31 % 256, 90, 200))
    return painted


def png_url(image: Image.Image) -> str:
    """Return an image as a data URI, as Pillow writes a PNG by default."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


class Canvas:
    """The tool of one chain: its image, and the faults that it still has to raise."""

    def __init__(self, job: Job, chain: int) -> None:
        self.image = job.photos[chain]
        self._waits = job.plan.waits[chain]
        self._raises = {turn for (where, turn), fault in job.faulty.items() if where == chain and fault == FAULTS[3]}

    def seconds(self, turn: int) -> float:
        """Return how long the tool waits in a turn before it paints."""
        return self._waits[turn][1]

    def paint(self, turn: int) -> Image.Image:
        """Paint, and keep and return the new image; raise once where the plan says so."""
        if turn in self._raises:
            self._raises.remove(turn)
            raise RuntimeError("the brush broke")
        self.image = paint(self.image, turn)
        return self.image


def call_server(url: str, body: Any = None) -> Any:
    """Register a run with the server (with a body), or return what it has counted (without one)."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
        return json.load(answer)


def measured(play: Callable[[Job], int]) -> None:
    """Run the job of the command line and write its figures to standard output, as the last line.

    A short run first loads what is loaded once; it is in no figure but the peak.

    Args:
        play: runs all chains of a job and returns how many reached their end.
    """
    job = Job(**json.loads(sys.argv[1]))
    warm = replace(job, run=f"{job.run}-warm", chains=2, turns=2, model_seconds=0.0, tool_seconds=0.0, faults=0.0)
    for one in (warm, job):
        call_server(f"{one.url}/{one.run}", asdict(one))
        # Drawn before the clock starts, for everybody.
        _ = one.plan.waits, one.photos, one.faulty
    play(warm)
    before, wall, cpu = peak_mib(), time.perf_counter(), time.process_time()
    finished = play(job)
    figures = {
        "finished": finished,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mib": peak_mib(),
        "grown_mib": peak_mib() - before,
    }
    sys.stdout.write(f"\n{json.dumps(figures)}\n")
