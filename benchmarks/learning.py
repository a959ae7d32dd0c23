"""Learning by algorithm: held-out success by task type against steps and minutes, on the sticker world.

    python benchmarks/learning.py [--arms ppo,grpo] [--seeds 0,1,2] [--out runs/learning] [--blanked] [--jobs 1]

Every arm of a seed starts from the same warm start, draws the same tasks and gets the same budget: steps x prompts x
samples. verl validates the policy within the run, greedily, on tasks that training never shows: other photographs,
other layouts, other sentences. Minutes are those of the training steps; validation and the start of the processes are
not in them. What is done stands in `learning.json`, and is not done again: a long benchmark can be run in pieces, and
goes on where it was stopped. Several runs at a time, with one thread each, are done sooner, and each of them takes more
minutes. An interval is Student's t over the seeds.

The arms `judge_pointwise` and `judge_listwise` are `grpo` with a simulated noisy judge in place of the exact score
(`benchmarks/simulated_judge.py`); what they learned is told by the exact score all the same.

The arms `refill`, `curriculum` and `refill_curriculum` are `grpo` with another choice of groups and tasks, from the
same training tasks. A table has the price of a point in tool seconds.

The arms `no_look`, `look` and `retouch` have task types, tools and a warm start of their own. They stand in tables of
their own, which also tell which tools the policy calls before training and after it. They need steps of 16 prompts, in
which they update the policy twice.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from learning_arms import APART, ARMS, STICKERS, WORLDS, World
from learning_report import markdown, write_report
from learning_results import STEP_FIGURES, Results, Run, by_exact_score, held_out_figures, read_metrics, tool_use
from rich.console import Console
from simulated_judge import JUDGED_ARMS, judged

from agentfly.datasets import FAMILIES, StickerWorld
from agentfly.errors import AgentFlyError, ConfigError, unknown_name
from agentfly.evaluators.bootstrap import SUCCESS
from agentfly.training.launch.checkpoints import export_policy
from agentfly.training.launch.launcher import TrainingOutcome, launch
from agentfly.training.launch.prepare import prepare
from agentfly.training.launch.subprocess_phase import run_phase
from agentfly.training.quickstart.evaluation import EvaluationPlan, evaluate_policy, read_evaluation
from agentfly.training.quickstart.warm_start import is_warm_start, warm_start
from agentfly.training.recipe.compose import CONFIG_DIR, compose, to_override
from agentfly.training.recipe.verl_dataset import write_rows

RECIPE = CONFIG_DIR / "stickers.yaml"


@dataclass(frozen=True)
class Budget:
    """The budget of every arm of every seed.

    Attributes:
        steps, prompts, samples: training steps, tasks of a step, chains of a task.
        test_tasks: held-out tasks, as many of each task type.
        test_every: steps between validations.
    """

    steps: int = 24
    prompts: int = 8
    samples: int = 8
    test_tasks: int = 100
    test_every: int = 6

    def overrides(self, updates: int) -> list[str]:
        """Return the budget in verl's keys, for so many updates of the policy in a step."""
        values = {
            "actor_rollout_ref.actor.ppo_mini_batch_size": max(1, self.prompts // updates),
            "trainer.total_training_steps": self.steps,
            "data.train_batch_size": self.prompts,
            "actor_rollout_ref.rollout.n": self.samples,
            "critic.ppo_mini_batch_size": max(1, self.prompts // 4) if self.prompts % 4 == 0 else self.prompts,
            "trainer.val_before_train": True,
            "trainer.test_freq": self.test_every,
        }
        return [to_override(key, value) for key, value in values.items()]


class Laboratory:
    """Makes the runs.

    Args:
        out: folder of everything.
        budget: of each run.
        given: warm start of every seed; each seed gets one of its own when None.
        blanked: whether the trained policies are evaluated on grey images too.
        overrides: of an arm, after its own.
        threads: compute threads of each process of a run; those of the recipe when None.
        one_warm_start: every seed starts from the warm start of this one; each from its own when None.
    """

    def __init__(
        self,
        out: Path,
        budget: Budget,
        given: Path | None = None,
        *,
        blanked: bool = False,
        overrides: Mapping[str, Sequence[str]] | None = None,
        threads: int | None = None,
        one_warm_start: int | None = None,
    ) -> None:
        self._out, self._budget, self._given = out.absolute(), budget, given
        self._blanked, self._overrides, self._threads = blanked, overrides or {}, threads
        self._one_warm_start = one_warm_start

    def make_ready(self, arm: str, seed: int, tell: Callable[[str], None]) -> tuple[Path, Path, Path]:
        """Make what the runs of a seed share where it is missing: warm start, training tasks, held-out tasks."""
        return self._warm_start(arm, seed, tell), *self._tasks(WORLDS.get(arm, STICKERS), seed)

    def run(self, arm: str, seed: int, tell: Callable[[str], None]) -> Run:
        """Train an arm with a seed.

        Raises:
            AgentFlyError: it failed.
        """
        policy, train, held_out = self.make_ready(arm, seed, tell)
        out = self._out / f"{arm}-{seed}"
        own = [*ARMS[arm], *self._overrides.get(arm, ())]
        values = {
            "agentfly.model": policy,
            "agentfly.out": out,
            "agentfly.seed": seed,
            "agentfly.data.train": train,
            "agentfly.data.validation": held_out,
            "trainer.save_freq": self._budget.steps if self._blanked else -1,
        }
        if self._threads is not None:
            values["agentfly.threads"] = self._threads
        shutil.rmtree(out, ignore_errors=True)  # of a run that was stopped half way
        with judged(arm, (train, held_out), seed) as judge:
            given = [to_override(key, value) for key, value in {**values, **judge}.items()]
            what = prepare(compose(RECIPE, [*given, *self._budget.overrides(WORLDS.get(arm, STICKERS).updates), *own]))
            outcome = launch(what, on_step=lambda step, metrics: tell(_line(step, metrics)))
        validations, steps = read_metrics(outcome.metrics)
        if arm in JUDGED_ARMS:
            validations = by_exact_score(validations, what.settings.trajectory_log)
        start = {str(phase): seconds for phase, seconds in outcome.phase_seconds.items() if phase != "training"}
        blanked = self._look(policy, outcome, out) if self._blanked and arm not in WORLDS else None
        used = tool_use(what.settings.trajectory_log, self._budget.steps) if arm in WORLDS else None
        return Run(arm, seed, own, validations, steps, start, blanked, used)

    def _warm_start(self, arm: str, seed: int, tell: Callable[[str], None]) -> Path:
        if self._given is not None:
            return self._given.absolute()
        seed = seed if self._one_warm_start is None else self._one_warm_start
        name = f"warm_start-{arm}-{seed}" if arm in WORLDS else f"warm_start-{seed}"
        folder, world = self._out / name, WORLDS.get(arm, STICKERS)
        config = world.warm_start.model_copy(update={"seed": seed})
        if not is_warm_start(folder, config):
            tell(f"warm start of seed {seed}{f' for {arm}' if arm in WORLDS else ''}")
            arguments = {"config": config, "folder": folder}
            run_phase(warm_start, arguments, log=self._out / "logs" / f"{name}.log")
        return folder

    def _tasks(self, world: World, seed: int) -> tuple[Path, Path]:
        """Files of the training tasks of a seed, and of the held-out tasks, which are the same for all."""
        budget, stickers, folder, families = self._budget, StickerWorld(), self._out / "data", world.families
        kind = f"-{world.name}" if world.name else ""
        each = max(1, budget.test_tasks // len(families))
        held_out = folder / f"heldout{kind}-{budget.test_tasks}.parquet"
        if not held_out.exists():
            write_rows(EvaluationPlan(tasks_per_family=each, families=families).tasks(), folder, held_out.stem)
        count = budget.steps * budget.prompts
        train = folder / f"train{kind}-{seed}-{count}.parquet"
        if not train.exists():
            names = [world.turn[n % len(world.turn)] for n in range(count)]
            tasks = (stickers.task(1_000_000 + n, "train", name, seed=seed) for n, name in enumerate(names))
            write_rows(tasks, folder, train.stem)
        return train, held_out

    def _look(self, policy: Path, outcome: TrainingOutcome, out: Path) -> dict[str, float]:
        """Success of the trained policy on look tasks: with its eyes, and with grey images."""
        if outcome.checkpoint is None:
            raise ConfigError(f"training left no checkpoint to evaluate; see {outcome.log_file}")
        trained = export_policy(outcome.checkpoint, out / "policy")
        if (card := policy / "agentfly.json").exists():
            (trained / card.name).write_bytes(card.read_bytes())
        plan = EvaluationPlan(tasks_per_family=100, families=("look",), kept_per_family=0, blanked=True)
        arguments = {"policy": trained, "out": out / "evaluation", "plan": plan}
        run_phase(evaluate_policy, arguments, log=out / "logs" / "evaluation.log")
        names = {"seeing": "greedy", "blanked": "blanked"}
        passes = {name: read_evaluation(out / "evaluation" / f"{file}.jsonl") for name, file in names.items()}
        return {name: float((found.scores() >= SUCCESS).mean()) for name, found in passes.items()}


def _line(step: int, metrics: Mapping[str, float]) -> str:
    words = [f"step {step}"]
    for name in ("reward", "explained_variance", "seconds"):
        if STEP_FIGURES[name] in metrics:
            words.append(f"{name.replace('_', ' ')} {metrics[STEP_FIGURES[name]]:.2f}")
    if figures := held_out_figures(metrics):
        words.append("held-out success " + ", ".join(f"{name} {v:.0%}" for name, v in figures["success"].items()))
    return "  ".join(words)


def benchmark(
    results: Results,
    pairs: Sequence[tuple[str, int]],
    make: Callable[[str, int, Callable[[str], None]], Run],
    console: Console,
    jobs: int = 1,
) -> list[str]:
    """Make the runs that are missing, `jobs` at a time, and keep each as soon as it is done; returns what failed."""

    def one(pair: tuple[str, int]) -> str | None:
        name = f"{pair[0]}, seed {pair[1]}"

        def tell(line: str) -> None:
            console.print(f"{name}: {line}", markup=False, highlight=False, soft_wrap=True)

        if pair in results.runs:
            tell("done before")
            return None
        try:
            results.add(make(*pair, tell))
        except AgentFlyError as fault:
            tell(f"failed: {fault}")
            return f"{name}: {fault}"
        return None

    if jobs == 1:  # in this thread, which an interrupt reaches
        return [fault for fault in map(one, pairs) if fault is not None]
    with ThreadPoolExecutor(jobs) as pool:
        return [fault for fault in pool.map(one, pairs) if fault is not None]


def _arms(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in ARMS:
            raise argparse.ArgumentTypeError(unknown_name("arm", name, ARMS))
    return names


def _override(text: str) -> tuple[str, str]:
    arm, colon, override = text.partition(":")
    if not colon or "=" not in override:
        raise argparse.ArgumentTypeError(f"{text!r} is not ARM:key=value")
    return _arms(arm)[0], override


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/learning"), help="folder of everything")
    parser.add_argument("--arms", type=_arms, default=[arm for arm in ARMS if arm not in APART], help=", ".join(ARMS))
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--warm-start", type=Path, help="policy that every seed starts from; else one a seed is made")
    parser.add_argument(
        "--one-warm-start", action="store_true", help="all seeds of an arm start from the warm start of the first"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default 1)")
    parser.add_argument("--override", type=_override, action="append", default=[], metavar="ARM:key=value")
    parser.add_argument("--blanked", action="store_true", help="evaluate the trained policies on grey images too")
    for name, words in (
        ("steps", "training steps"),
        ("prompts", "tasks of a step"),
        ("samples", "chains of a task"),
        ("test-tasks", f"held-out tasks, a multiple of {len(FAMILIES)}"),
        ("test-every", "steps between validations"),
    ):
        default = getattr(Budget(), name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{words} (default {default})")
    return parser


def main() -> None:
    """Run what is missing, and report on all that there is."""
    parser, console = _parser(), Console()
    given = parser.parse_args()
    if given.test_tasks < 1 or given.test_tasks % len(FAMILIES):
        parser.error(f"--test-tasks must be a multiple of {len(FAMILIES)}: as many of each task type")
    if given.jobs < 1:
        parser.error("--jobs must be at least 1")
    budget = Budget(given.steps, given.prompts, given.samples, given.test_tasks, given.test_every)
    overrides: dict[str, list[str]] = {}
    for arm, override in given.override:
        overrides.setdefault(arm, []).append(override)
    try:
        results = Results(given.out / "learning.json", asdict(budget), ARMS)
    except ConfigError as fault:
        parser.error(str(fault))
    # A thread that spins while it waits for one whose core another run has taken costs more than it gives.
    threads = 1 if given.jobs > 1 else None
    laboratory = Laboratory(
        given.out,
        budget,
        given.warm_start,
        blanked=given.blanked,
        overrides=overrides,
        threads=threads,
        one_warm_start=given.seeds[0] if given.one_warm_start else None,
    )
    pairs = [(arm, seed) for seed in given.seeds for arm in given.arms]
    try:
        # Several runs may begin with one warm start; a single run makes what it needs.
        for arm, seed in pairs if given.jobs > 1 else ():
            if (arm, seed) not in results.runs:
                laboratory.make_ready(arm, seed, console.print)
    except AgentFlyError as fault:
        sys.exit(str(fault))
    failed = benchmark(results, pairs, laboratory.run, console, given.jobs)
    if results.runs:
        write_report(results, given.out)
        console.print(markdown(results), markup=False, highlight=False, soft_wrap=True)
    if failed:
        sys.exit("\n".join(["not done:", *failed]))


if __name__ == "__main__":
    main()
