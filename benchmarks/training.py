"""The cost of a training step with our agent loop, next to verl's own loops, and of the start of a run.

    python benchmarks/training.py [--steps 8] [--rounds 2] [--warm-start FOLDER] [--quick] [--json FILE]

Three loops in the same trainer, with the same policy, tasks, tools and settings:

    agentfly      our loop, scoring included
    tool_agent    verl's own tool loop with the very same tools, and a reward that costs nothing
    single_turn   verl's own single turn, of as many sampled tokens as our chains have in all

The learning rate is 0, so that every step has the same policy. A launch's first step pays for what is loaded once and
does not count. Launches take turns, and ratios are taken round by round: a machine that is slow in one round is so for
all. Before that, without trainer and engine, comes the processor time that the loops take by themselves (see
`loops_alone.py`). Aims: a step at most 1.05 x that of verl's tool loop; 5 s at 16 trajectories; 75 s from a cold start
to the first step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agentfly.datasets import FAMILIES, EditTask, StickerWorld
from agentfly.images import ImageStore, ImageView, load_image
from agentfly.training.launch.launcher import TrainingOutcome, launch
from agentfly.training.launch.prepare import prepare
from agentfly.training.launch.subprocess_phase import ENVIRONMENT, run_phase
from agentfly.training.quickstart.warm_start import WarmStartConfig, warm_start
from agentfly.training.recipe.compose import CONFIG_DIR, compose, to_override
from agentfly.training.recipe.verl_dataset import write_rows

RECIPE = CONFIG_DIR / "stickers.yaml"
HERE = Path(__file__).resolve().parent
OURS, TOOLS, SINGLE = "agentfly", "tool_agent", "single_turn"
MAX_TURNS = 4
# Parts of a step, as verl names them.
PARTS = ("gen", "old_log_prob", "adv", "update_actor", "update_weights")
SHAPE = {"turns": "num_turns/mean", "prompt tokens": "prompt_length/mean", "response tokens": "response_length/mean"}
# What the processes of a run import, each with the one before it loaded.
IMPORTS = ("torch", "transformers", "ray", "vllm", "verl.trainer.main_ppo", "agentfly.training.verl.loop_worker")
_IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| (\s*)(\S+)")


@dataclass(frozen=True)
class Plan:
    """The work of a benchmark.

    Attributes:
        steps: of each launch; the first does not count.
        rounds: launches of each loop.
        prompts, samples: tasks of a step, chains of a task.
        seed: of the tasks.
    """

    steps: int = 8
    rounds: int = 2
    prompts: int = 4
    samples: int = 4
    seed: int = 0

    def tasks(self) -> list[EditTask]:
        """Return as many tasks as the steps draw, of all types in turn."""
        world, families = StickerWorld(), [FAMILIES[n % len(FAMILIES)] for n in range(self.steps * self.prompts)]
        return [world.task(2_000_000 + n, "train", name, seed=self.seed) for n, name in enumerate(families)]

    def overrides(self) -> dict[str, Any]:
        """Return the settings that all loops share, by their keys in the configuration."""
        return {
            "agentfly.seed": self.seed,
            "agentfly.system_prompt": "",
            "agentfly.limits.max_turns": MAX_TURNS,
            # verl's loop has no limit of a turn's own.
            "agentfly.limits.max_tokens_per_turn": 192,
            "agentfly.limits.max_images": 8,
            "data.train_batch_size": self.prompts,
            "actor_rollout_ref.rollout.n": self.samples,
            "actor_rollout_ref.actor.optim.lr": 0.0,
            "trainer.total_training_steps": self.steps,
            "trainer.save_freq": -1,
        }


@dataclass(frozen=True)
class Timing:
    """One launch of a loop.

    Attributes:
        loop: its name.
        step: median seconds of a step.
        parts: median seconds of its parts; "rest" is what they leave of the step.
        shape: means of turns and tokens of a chain: whether the loops did the same.
        start: seconds of the phases before training.
        first_step: seconds of the first step.
    """

    loop: str
    step: float
    parts: Mapping[str, float]
    shape: Mapping[str, float]
    start: Mapping[str, float]
    first_step: float

    @property
    def cold_start(self) -> float:
        """Seconds from the command to the beginning of the first step."""
        return sum(self.start.values())


def timing_of(loop: str, outcome: TrainingOutcome) -> Timing:
    """Return the times of a launch; of a single step, that one counts."""
    steps = [values for step, values in outcome.metrics if step > 0]
    counted = steps[1:] or steps

    def middle(name: str) -> float:
        return statistics.median(values.get(name, 0.0) for values in counted)

    parts = {part: middle(f"timing_s/{part}") for part in PARTS}
    whole = middle("timing_s/step")
    shape = {name: statistics.fmean(values.get(key, 0.0) for values in counted) for name, key in SHAPE.items()}
    start = {str(phase): seconds for phase, seconds in outcome.phase_seconds.items() if phase != "training"}
    parts["rest"] = whole - sum(parts.values())
    return Timing(loop, whole, parts, shape, start, steps[0].get("timing_s/step", 0.0))


@dataclass(frozen=True)
class Ratio:
    """A loop against another, round by round."""

    loop: str
    other: str
    step: tuple[float, ...]
    rollout: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the whole step."""
        return statistics.median(self.step)


def ratio(timings: Sequence[Timing], loop: str, other: str) -> Ratio:
    """Seconds of a loop over those of another, in each round."""
    mine, theirs = ([timing for timing in timings if timing.loop == name] for name in (loop, other))
    pairs = list(zip(mine, theirs, strict=True))
    step = tuple(a.step / b.step for a, b in pairs)
    return Ratio(loop, other, step, tuple(a.parts["gen"] / b.parts["gen"] for a, b in pairs))


@dataclass(frozen=True)
class Import:
    """A module and what it pulls in, in a fresh interpreter.

    Attributes:
        module: its name.
        seconds: of all imports.
        costliest: seconds of the packages that took most, each by itself.
    """

    module: str
    seconds: float
    costliest: Mapping[str, float]


def read_import_times(module: str, told: str) -> Import:
    """From what `python -X importtime` writes: microseconds of each module alone and with what it imports."""
    lines = [found for line in told.splitlines() if (found := _IMPORT_LINE.match(line))]
    alone: Counter[str] = Counter()
    for found in lines:
        alone[found[4].partition(".")[0]] += int(found[1])
    costliest = {name: round(micro / 1e6, 3) for name, micro in alone.most_common(6)}
    return Import(module, sum(alone.values()) / 1e6, costliest)


def import_times(module: str) -> Import:
    """Import a module in a fresh interpreter, as the processes of a run on a CPU do."""
    environment = {**os.environ, **ENVIRONMENT, "VERL_PLATFORM": "cpu"}
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=300)
    return read_import_times(module, done.stderr)


def loops_alone(policy: Path) -> dict[str, float]:
    """Run `loops_alone.py` in a process of its own, and return its figures."""
    command = [sys.executable, str(HERE / "loops_alone.py"), str(policy), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


class Course:
    """Launches the loops.

    Args:
        out: folder of everything; what is there is replaced.
        policy: that all of them run.
        plan: what is run.
    """

    def __init__(self, out: Path, policy: Path, plan: Plan) -> None:
        self._out, self._policy, self._plan = out.absolute(), policy.absolute(), plan
        self._sampled: int | None = None

    def run(self, loop: str, number: int) -> Timing:
        """Launch a loop in a round; the first launch must be ours, which tells how many tokens are sampled.

        Raises:
            TrainingError: it failed.
        """
        out = self._out / f"{loop}-{number}"
        shutil.rmtree(out, ignore_errors=True)
        values = {"agentfly.model": self._policy, "agentfly.out": out, **self._plan.overrides()}
        values |= self._ours() if loop == OURS else self._theirs(loop)
        outcome = launch(prepare(compose(RECIPE, [to_override(key, value) for key, value in values.items()])))
        if loop == OURS and self._sampled is None:
            self._sampled = sampled_tokens(out / "trajectories.jsonl")
        return timing_of(loop, outcome)

    def _ours(self) -> dict[str, Any]:
        file = self._out / "data" / "ours.parquet"
        if not file.exists():
            write_rows(self._plan.tasks(), file.parent, file.stem)
        return {"agentfly.data.train": file}

    def _theirs(self, loop: str) -> dict[str, Any]:
        file = self._out / "data" / "verl.parquet"
        if not file.exists():
            write_verl_rows(self._plan.tasks(), file)
        paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        values = {
            "agentfly.data.train": file,
            "agentfly.data.validation": file,  # which is never read; without one, tasks would be made of these rows
            "agentfly.environment": {"PYTHONPATH": paths},
            "actor_rollout_ref.rollout.agent.agent_loop_manager_class": None,
            "actor_rollout_ref.rollout.agent.default_agent_loop": loop,
            "reward.reward_manager.source": "register",
            "reward.reward_manager.name": "naive",
            "reward.custom_reward_function.path": "pkg://verl_side",
            "trainer.v1.sampler.custom_sampler.path": "pkg://verl_side",
            "trainer.v1.sampler.custom_sampler.name": "QuickReplayBuffer",
        }
        return values | (self._tool_loop() if loop == TOOLS else self._single_turn())

    def _tool_loop(self) -> dict[str, Any]:
        from agentfly.tools import ImageTools, Toolset
        from agentfly.vision.factory import make_engines

        tools = Toolset.of(ImageTools(ImageView(ImageStore()), make_engines("classical")))
        listed = [
            {"class_name": "verl_side.ImageTool", "config": {"type": "native"}, "tool_schema": schema}
            for schema in tools.schemas()
        ]
        node = "actor_rollout_ref.rollout.multi_turn"
        return {
            f"{node}.enable": True,
            f"{node}.tool_config_path": self._write("tools.yaml", {"tools": listed}),
            f"{node}.format": "hermes_until_answer",
            f"{node}.max_assistant_turns": MAX_TURNS,
            f"{node}.max_tool_response_length": 4096,
        }

    def _single_turn(self) -> dict[str, Any]:
        if self._sampled is None:
            raise ValueError(f"{SINGLE} samples as many tokens as {OURS} did, which did not run yet")
        listed = [{"name": SINGLE, "_target_": "verl_side.LongSingleTurn", "tokens": self._sampled}]
        return {"actor_rollout_ref.rollout.agent.agent_loop_config_path": self._write("loops.yaml", listed)}

    def _write(self, name: str, content: Any) -> Path:
        file = self._out / name
        # YAML reads JSON.
        file.write_text(json.dumps(content), encoding="utf-8")
        return file


def sampled_tokens(log: Path) -> int:
    """Tokens that a chain of a run's log sampled, on average."""
    with log.open(encoding="utf-8") as lines:
        turns = [json.loads(line)["trajectory"]["turns"] for line in lines]
    return round(statistics.fmean(sum(turn["end"] - turn["start"] for turn in chain) for chain in turns))


def write_verl_rows(tasks: Sequence[EditTask], path: Path) -> None:
    """Tasks as verl's own loops read them: the same prompt, with its image in the row."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for index, task in enumerate(tasks):
        buffer = io.BytesIO()
        load_image(task.images[0]).save(buffer, "PNG")
        rows.append(
            {
                "data_source": task.task_type,
                "prompt": [{"role": "user", "content": f"img_1: <image>\n{task.instruction}"}],
                "images": [{"bytes": buffer.getvalue()}],
                "reward_model": {"style": "rule", "ground_truth": ""},
                "extra_info": {"index": index},
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


@dataclass
class Report:
    """All measurements."""

    plan: Plan
    machine: str = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])
    timings: list[Timing] = field(default_factory=list)
    imports: list[Import] = field(default_factory=list)
    alone: Mapping[str, float] = field(default_factory=dict)

    def ratios(self) -> list[Ratio]:
        """Return the ratios of our loop to each of verl's."""
        loops = {timing.loop for timing in self.timings}
        return [ratio(self.timings, OURS, other) for other in (TOOLS, SINGLE) if {OURS, other} <= loops]

    def as_json(self) -> dict[str, Any]:
        """The report with what is derived from it."""
        return {
            **asdict(self),
            "timings": [{**asdict(timing), "cold_start": timing.cold_start} for timing in self.timings],
            "ratios": [{**asdict(each), "median": each.median} for each in self.ratios()],
        }

    def show(self, console: Console) -> None:
        """Print the tables."""
        if self.load_before > 0.5:
            console.print(f"The machine was busy before ({self.load_before:.1f}): seconds mean little.")
        chains = self.plan.prompts * self.plan.samples
        table = Table("loop", "step s", *PARTS, "rest", *SHAPE, title=f"a step of {chains} chains, medians")
        for timing in self.timings:
            parts = (f"{timing.parts[part]:.2f}" for part in (*PARTS, "rest"))
            table.add_row(timing.loop, f"{timing.step:.2f}", *parts, *(f"{timing.shape[name]:.1f}" for name in SHAPE))
        console.print(table)
        for each in self.ratios():
            rounds = ", ".join(f"{value:.2f}" for value in each.step)
            rollout = statistics.median(each.rollout)
            console.print(
                f"{each.loop} / {each.other}: {each.median:.2f} (rounds: {rounds}); rollout alone: {rollout:.2f}"
            )
        if self.alone:
            console.print(
                f"the loops alone: agentfly {self.alone['agentfly_ms']:.1f}, verl's tool loop "
                f"{self.alone['verl_ms']:.1f} processor ms a chain of three turns; ratio {self.alone['ratio']:.2f}"
            )
        phases = list(self.timings[0].start) if self.timings else []
        table = Table("loop", *phases, "before the first step", "first step", title="cold start, s")
        for timing in self.timings:
            seconds = [*(timing.start.get(phase, 0.0) for phase in phases), timing.cold_start, timing.first_step]
            table.add_row(timing.loop, *(f"{value:.1f}" for value in seconds))
        console.print(table)
        table = Table("import", "s", "of it, by package", title="in a fresh interpreter")
        for found in self.imports:
            costliest = ", ".join(f"{name} {seconds:.2f}" for name, seconds in found.costliest.items())
            table.add_row(found.module, f"{found.seconds:.1f}", costliest)
        console.print(table)


def measure(plan: Plan, run: Callable[[str, int], Timing], tell: Callable[[str], None]) -> list[Timing]:
    """Time all launches, each loop first in turn; the very first is ours."""
    loops, timings = [OURS, TOOLS, SINGLE], []
    for number in range(plan.rounds):
        for loop in loops:
            tell(f"round {number + 1} of {plan.rounds}: {loop}")
            timings.append(run(loop, number))
        loops = [*loops[1:], loops[0]]
    return timings


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Plan()
    parser.add_argument("--steps", type=int, default=default.steps, help="of each launch")
    parser.add_argument("--rounds", type=int, default=default.rounds, help="launches of each loop")
    parser.add_argument("--prompts", type=int, default=default.prompts, help="tasks of a step")
    parser.add_argument("--samples", type=int, default=default.samples, help="chains of a task")
    parser.add_argument("--warm-start", type=Path, help="policy to run; else one is made, which takes minutes")
    parser.add_argument("--out", type=Path, default=Path("runs/training"), help="folder of the launches")
    parser.add_argument("--quick", action="store_true", help="one round of two steps, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given, console = parser.parse_args(), Console()
    plan = Plan(2, 1, 2, 2) if given.quick else Plan(given.steps, given.rounds, given.prompts, given.samples)
    report = Report(plan)
    policy = given.warm_start
    if policy is None:
        policy = given.out / "warm_start"
        if not (policy / "agentfly.json").exists():  # the last that is written
            arguments = {"config": WarmStartConfig(), "folder": policy}
            run_phase(warm_start, arguments, log=given.out / "logs" / "warm_start.log")
    report.imports = [import_times(module) for module in IMPORTS]
    report.alone = loops_alone(policy)
    course = Course(given.out, policy, plan)
    report.timings = measure(plan, course.run, lambda line: console.print(line, highlight=False))
    report.show(console)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
