"""What it costs to record the chains of a training run with their images.

    python benchmarks/recording.py RUN [--json FILE]

RUN is a training run whose images were kept (`agentfly.images`). The chains of each step are recorded once more, by the
recorder of training, in an empty folder. Two things are measured: how long the rollout is held up when it gives a chain
away, and the processor time of the thread that writes chains and images. The latter is compared with the step's own
seconds, as if no core had been free for it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agentfly.agents.trajectory_file import FILE_NAME, TrajectoryLine, image_folder, read_trajectories
from agentfly.errors import AgentFlyError, ConfigError
from agentfly.images import ImageStore
from agentfly.training.recipe.record_settings import GB
from agentfly.training.recording.image_budget import ImageBudget
from agentfly.training.recording.recorder import ChainRecorder, Record
from agentfly.viewer.runs.metrics import MetricsFile

_LIMIT = 600.0  # seconds to write a step


@dataclass(frozen=True)
class StepCost:
    """The cost of a step's chains.

    Attributes:
        step, chains, images: number of the step, its chains, and files of images that are new in it.
        held_up: microseconds that the rollout waits for each chain, their median.
        beside: seconds of processor time of the writing thread.
        seconds: of the whole step when the run was trained.
    """

    step: int
    chains: int
    images: int
    held_up: float
    beside: float
    seconds: float


def records_of(step: int, lines: Iterable[TrajectoryLine], kept: ImageStore) -> list[Record]:
    """Return the chains with their images in memory, as a rollout has them.

    Raises:
        ImageError: an image is missing or damaged.
    """
    records = []
    for line in lines:
        store = ImageStore()
        record = Record(line.trajectory, store, step, 0, credit=tuple(line.credit))
        for handle in record.handles:
            store.put(kept.get(handle))
        records.append(record)
    return records


def cost_of(records: list[Record], seconds: float) -> StepCost:
    """Record the chains of a step in an empty folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = folder / "images"
        images.mkdir()
        recorder = ChainRecorder(folder / FILE_NAME, ImageBudget(images, 10 * GB, records[0].step))
        held_up, cpu = [], time.process_time()
        for record in records:
            began = time.perf_counter()
            recorder.record(record)
            held_up.append(time.perf_counter() - began)
        if not recorder.drain(_LIMIT):
            raise ConfigError(f"the chains of step {records[0].step} were not written within {_LIMIT:g} s")
        beside = time.process_time() - cpu
        count = len(list(images.glob("*.png")))
    return StepCost(records[0].step, len(records), count, 1e6 * statistics.median(held_up), beside, seconds)


def measure(run: Path) -> list[StepCost]:
    """Measure all steps of a run that have chains with images.

    Raises:
        AgentFlyError: it is no such run.
    """
    folder, chains = image_folder(run / FILE_NAME), defaultdict(list)
    if folder is None:
        raise ConfigError(f"{run} kept no images: train with agentfly.images")
    for _, line in read_trajectories(run / FILE_NAME):
        if line.images_kept and not line.validate and line.step is not None:
            chains[line.step].append(line)
    seconds, kept = MetricsFile(run / "metrics.jsonl").read().series.get("timing_s/step", ()), ImageStore(folder)
    steps = [(int(step), took) for step, took in seconds]
    found = [cost_of(records_of(step, chains[step], kept), took) for step, took in steps if step in chains]
    if not found:
        raise ConfigError(f"{run} has no finished training step with images")
    return found


def show(costs: list[StepCost], console: Console) -> None:
    """Print a row for each step, and the medians."""
    table = Table("step", "chains", "images", "held up, µs a chain", "beside, ms a chain", "beside, % of the step")
    rows = [(c.held_up, 1000 * c.beside / c.chains, 100 * c.beside / c.seconds) for c in costs]
    for cost, row in zip(costs, rows, strict=True):
        table.add_row(str(cost.step), str(cost.chains), str(cost.images), *(f"{value:.2f}" for value in row))
    medians = [statistics.median(values) for values in zip(*rows, strict=True)]
    table.add_section()
    table.add_row("median", "", "", *(f"{value:.2f}" for value in medians))
    console.print(table)


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    try:
        costs = measure(given.run)
    except AgentFlyError as fault:
        sys.exit(str(fault))
    show(costs, Console())
    if given.json:
        found = {"cores": os.cpu_count(), "load_before": load, "steps": [asdict(cost) for cost in costs]}
        given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
