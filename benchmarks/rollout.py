"""The cost of the rollout beside the waiting: makespan, CPU and memory, next to a plain asyncio loop.

    python benchmarks/rollout.py [--chains 256] [--turns 8] [--quick] [--json FILE]

Model and tools are replaced by waits, drawn once and the same for everybody. Every chain could run alone, so no
schedule can be faster than the slowest chain: that is the bound. The plain loop does the same work with nothing around
it: the same waits, the same calls read from the same texts, and, where the tool makes images, the same PNG files on
disk. Memory is measured in a fresh process each time, because a peak cannot be taken back; the process runs several
steps with other images each, and what the first one did not need must not be needed by the last. Aim: a makespan of at
most 1.02 of the bound with images, and of no more than the plain loop's.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))
from rollout_plan import Plan, make_image, peak_mib

from agentfly.agents import Agent, AgentSettings, RolloutLimits, StopReason
from agentfly.agents.llm_backends import GenerationRequest, ScriptedBackend
from agentfly.images import ImageStore, ImageView
from agentfly.tools import ToolResult, Toolset, tool


class Desk:
    """The tools of one chain."""

    def __init__(self, plan: Plan, view: ImageView) -> None:
        self._plan, self._view = plan, view

    @tool
    async def work(self, chain: int, turn: int) -> ToolResult:
        """Wait, and make an image where the plan says so."""
        await asyncio.sleep(self._plan.waits[chain][turn][1])
        if not self._plan.images:
            return ToolResult(f"turn {turn} done")
        handle = await asyncio.to_thread(
            lambda: self._view.store.put(make_image(self._plan.first + chain, turn, self._plan.side))
        )
        return ToolResult(self._view.add_handle(handle), (handle,))

    @tool
    async def answer(self, image_id: str) -> ToolResult:
        """Finish."""
        return ToolResult("done", (self._view.handle(image_id),), final=True)


class BenchmarkAgent(Agent):
    """An agent with the two tools, and a model that waits."""

    def __init__(self, plan: Plan, store: ImageStore, concurrent: int) -> None:
        def place(request: GenerationRequest) -> tuple[int, int]:
            prompt, number, turn = map(int, request.request_id.split("-"))
            return prompt * plan.group + number, turn

        def latency(request: GenerationRequest) -> float:
            chain, turn = place(request)
            return plan.waits[chain][turn][0]

        limits = RolloutLimits(max_turns=plan.turns, max_images=plan.turns + 1, max_tool_calls=plan.turns)
        super().__init__(
            "scripted",
            backend=ScriptedBackend(lambda request: plan.text(*place(request)), latency),
            settings=AgentSettings(limits=limits, max_concurrent_chains=concurrent),
            store=store,
        )
        self._plan = plan

    def toolset(self, view: ImageView) -> Toolset:
        """The two tools."""
        return Toolset.of(Desk(self._plan, view))


async def with_agentfly(plan: Plan, inputs: list[bytes], folder: Path | None, concurrent: int | None = None) -> None:
    """The plan on the project's own rollout."""
    agent = BenchmarkAgent(plan, ImageStore(folder), concurrent or plan.chains)
    conversations = [
        {"id": str(prompt), "messages": [{"role": "user", "content": [{"type": "image", "image": file}, "Do it."]}]}
        for prompt, file in enumerate(inputs)
    ]
    result = await agent.run(conversations, num_chains=plan.group)
    reasons = {trajectory.stop_reason for trajectory in result}
    turns = {len(trajectory.turns) for trajectory in result}
    if reasons != {StopReason.ANSWERED} or turns != {plan.turns} or len(result) != plan.chains:
        raise SystemExit(f"{len(result)} chains ended with {reasons} after {turns} turns: {result[0].error}")


async def with_plain_loop(plan: Plan, inputs: list[bytes], folder: Path) -> None:
    """The plan with nothing around it: one coroutine a chain and a list of messages."""

    def make(chain: int, turn: int) -> None:
        make_image(chain, turn, plan.side).save(folder / f"{chain}-{turn}.png", compress_level=1)

    async def one(chain: int) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = [{"role": "user", "content": "Do it."}]
        for turn, (model, work) in enumerate(plan.waits[chain]):
            await asyncio.sleep(model)
            text = plan.text(chain, turn)
            call = json.loads(text.split("<tool_call>")[1].split("</tool_call>")[0])
            messages.append({"role": "assistant", "content": text})
            if call["name"] == "answer":
                break
            await asyncio.sleep(work)
            if plan.images:
                await asyncio.to_thread(make, chain, turn)
            messages.append({"role": "tool", "content": f"turn {turn} done"})
        return messages

    for prompt, file in enumerate(inputs):
        with Image.open(io.BytesIO(file)) as image:
            image.save(folder / f"{prompt}.png", compress_level=1)
    await asyncio.gather(*(one(chain) for chain in plan.all))


@dataclass(frozen=True)
class Timing:
    """One run of a plan.

    Attributes:
        name: who ran it.
        images: as in the plan.
        bound, makespan: seconds.
        cpu_ms: processor milliseconds a turn, all threads.
    """

    name: str
    images: bool
    bound: float
    makespan: float
    cpu_ms: float

    @property
    def over_bound(self) -> float:
        """Share of the bound by which the run was slower."""
        return self.makespan / self.bound - 1


@dataclass(frozen=True)
class Memory:
    """Peak memory of a process, in MiB above what it had before.

    Attributes:
        trajectories, turns: of each step.
        peaks: after each step.
    """

    trajectories: int
    turns: int
    peaks: tuple[float, ...]

    @property
    def mib_each(self) -> float:
        """MiB a trajectory."""
        return self.peaks[-1] / self.trajectories


@dataclass
class Report:
    """All measurements."""

    machine: str = f"{platform.machine()}, Python {platform.python_version()}"
    timings: list[Timing] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)

    def overhead_ms(self, images: bool) -> float:
        """CPU milliseconds a turn beyond the plain loop."""
        cpu = {timing.name: timing.cpu_ms for timing in self.timings if timing.images is images}
        return cpu["agentfly"] - cpu["plain loop"]

    def as_json(self) -> dict[str, Any]:
        """The report with what is derived from it."""
        return {
            "machine": self.machine,
            "timings": [{**asdict(timing), "over_bound": timing.over_bound} for timing in self.timings],
            "overhead_ms_a_turn": {"text": self.overhead_ms(False), "images": self.overhead_ms(True)},
            "memory": [{**asdict(memory), "mib_each": memory.mib_each} for memory in self.memory],
        }

    def show(self, console: Console) -> None:
        """Print the tables."""
        table = Table("run", "tool gives", "bound s", "makespan s", "over bound", "CPU ms a turn")
        for timing in self.timings:
            gives = "512² images" if timing.images else "text"
            seconds = f"{timing.bound:.2f}", f"{timing.makespan:.2f}", f"{timing.over_bound:.1%}"
            table.add_row(timing.name, gives, *seconds, f"{timing.cpu_ms:.2f}")
        console.print(table)
        for words, images in (("text", False), ("images", True)):
            console.print(f"beyond the plain loop, {words}: {self.overhead_ms(images):.2f} CPU ms a turn")
        table = Table("turns", "trajectories a step", "peak MiB after each step", "MiB a trajectory")
        for memory in self.memory:
            peaks = " ".join(f"{peak:.0f}" for peak in memory.peaks)
            table.add_row(str(memory.turns), str(memory.trajectories), peaks, f"{memory.mib_each:.2f}")
        console.print(table)


Run = Callable[[Plan, list[bytes], Path], Awaitable[None]]


def timed(name: str, plan: Plan, run: Run) -> Timing:
    """Run a plan and measure it; a short run first loads what is loaded once."""
    short = replace(plan, prompts=2, group=1, turns=2, model_seconds=0.0, tool_seconds=0.0)

    async def measured(folder: Path) -> tuple[float, float]:
        await run(short, short.inputs(), folder)
        inputs, bound = plan.inputs(), plan.bound()
        wall, cpu = time.perf_counter(), time.process_time()
        await run(plan, inputs, folder)
        return (time.perf_counter() - wall) / bound, time.process_time() - cpu

    with tempfile.TemporaryDirectory() as folder:
        share, cpu = asyncio.run(measured(Path(folder)))
    return Timing(name, plan.images, plan.bound(), share * plan.bound(), cpu * 1000 / (plan.chains * plan.turns))


def measure_memory(trajectories: int, turns: int, steps: int) -> Memory:
    """Peaks of steps with images, 64 chains at a time, in a process of their own.

    To be called while this process is small: a new process starts with the peak of the one that starts it.
    """
    command = [sys.executable, __file__, "--memory", str(trajectories), str(turns), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Memory(trajectories, turns, tuple(json.loads(done.stdout)))


def memory_here(trajectories: int, turns: int, steps: int) -> list[float]:
    """Measure the memory of this process, for `measure_memory`."""
    plan = Plan(trajectories // 8, 8, turns, model_seconds=0.0, tool_seconds=0.0, images=True)
    before, peaks = peak_mib(), []
    for step in range(steps):
        this = replace(plan, first=step * plan.chains)
        asyncio.run(with_agentfly(this, this.inputs(), None, concurrent=64))
        peaks.append(peak_mib() - before)
    return peaks


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chains", type=int, default=256, help="at the same time, eight of each prompt")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--memory", type=int, nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        sys.stdout.write(f"{memory_here(*given.memory)}\n")
        return
    plan = Plan(max(1, given.chains // 8), turns=given.turns, seed=given.seed)
    sizes = [(1000, 2, 1), (1000, 6, 4)]
    if given.quick:
        plan, sizes = Plan(2, 8, 3, 0.02, 0.01, seed=given.seed), [(32, 2, 1), (32, 4, 2)]
    report = Report(memory=[measure_memory(*size) for size in sizes])
    for images in (False, True):
        this = replace(plan, images=images)
        report.timings += [timed("plain loop", this, with_plain_loop), timed("agentfly", this, with_agentfly)]
    report.show(Console())
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
