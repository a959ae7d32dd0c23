"""What refilling groups and a curriculum cost and gain, in tool seconds: a softmax policy in place of a trained one.

    python benchmarks/sampling.py [--tasks 200] [--steps 30] [--seeds 0,1,2] [--call-seconds 5] [--json FILE]

The chains are those of `benchmarks/judges.py`: real results of ten ways to act on each sticker task, scored by the
`reference` evaluator, and a softmax over the ways for each task type as the policy, updated with GRPO's advantages. It
starts where a warm start might: *repair* is nearly solved, *named* and *look* are in between, *replace* and *two_step*
are hardly ever right. A call is taken to last `--call-seconds`; all else takes no time.

| arm | |
|---|---|
| plain | tasks at random, groups as they come |
| refill | `agentfly.refill`: each group without variance is replaced by one task |
| refill, two for one | verl's own synchronous buffer: two tasks for each, and what is left over is discarded |
| curriculum | `agentfly.curriculum`, the same estimates and the same choice |
| both | refill and curriculum |

Each arm is shown after the same number of steps, and after as many tool seconds as `plain` took in them. The price is
tool seconds a point of held-out success gained. Intervals are Student's t over seeds. The same tasks serve all arms.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

import numpy as np  # noqa: E402
from judges import RATE, WAYS, Outcomes, advantages, collect, softmax  # noqa: E402
from learning_results import interval  # noqa: E402
from rich.console import Console  # noqa: E402

from agentfly.datasets import FAMILIES  # noqa: E402
from agentfly.evaluators.bootstrap import SUCCESS  # noqa: E402
from agentfly.training.metrics.reward_groups import EQUAL  # noqa: E402
from agentfly.training.metrics.task_difficulty import TaskDifficulty  # noqa: E402
from agentfly.training.recipe.sampling_settings import CurriculumSettings, RefillSettings  # noqa: E402

PROMPTS, GROUP = 8, 8
# Logits of the start: how much more likely than the others "nothing" or "right" is.
START: Mapping[str, Mapping[str, float]] = {
    "replace": {"nothing": 5.0},
    "two_step": {"nothing": 5.0},
    "repair": {"right": 5.0},
}


@dataclass(frozen=True)
class Arm:
    """How tasks and groups are chosen.

    Attributes:
        new: tasks in the place of a group without variance; 0 keeps such groups.
        candidates: tasks of which one is drawn; 1 draws at random.
    """

    new: int = 0
    candidates: int = 1


ARMS: Mapping[str, Arm] = {
    "plain": Arm(),
    "refill": Arm(new=1),
    "refill, two for one": Arm(new=2),
    "curriculum": Arm(candidates=CurriculumSettings().candidates),
    "both": Arm(new=1, candidates=CurriculumSettings().candidates),
}


@dataclass(frozen=True)
class Group:
    """The chains of one task: its row, the ways that were drawn, and their rewards (0 to 1)."""

    row: int
    drawn: np.ndarray
    rewards: np.ndarray

    @property
    def flat(self) -> bool:
        """True if nothing can be learned from it."""
        return bool(self.rewards.std() < EQUAL)


@dataclass
class Progress:
    """A run so far.

    Attributes:
        success: on held-out tasks before each step and after the last, 0 to 100.
        calls: of tools until then.
        replaced, discarded: groups without variance that were replaced, and all groups that were not trained on.
    """

    success: list[float] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    replaced: int = 0
    discarded: int = 0


class Learner:
    """The softmax policy and its training.

    Args:
        train, held_out: outcomes of tasks.
        arm: choice of tasks and groups.
        seed: of tasks and chains.
    """

    def __init__(self, train: Sequence[Outcomes], held_out: Sequence[Outcomes], arm: Arm, seed: int) -> None:
        self._train, self._held_out, self._arm = train, held_out, arm
        self._rng = np.random.default_rng(seed)
        self._tasks = TaskDifficulty(
            [task.family for task in train], chains=GROUP, candidates=arm.candidates, seed=seed
        )
        self._logits = {family: np.array([START.get(family, {}).get(way, 0.0) for way in WAYS]) for family in FAMILIES}

    def run(self, enough: Callable[[Progress], bool]) -> Progress:
        """Take steps until it is enough."""
        found = Progress([self._success()], [0])
        while not enough(found):
            self._step(found)
        return found

    def _step(self, found: Progress) -> None:
        kept, discarded, replaced = self._sample()
        self._learn(kept)
        seen = [(group.row, float(reward)) for group in (*kept, *discarded) for reward in group.rewards]
        self._tasks.observe(seen, len(found.success))
        found.calls.append(found.calls[-1] + sum(self._calls(group) for group in (*kept, *discarded)))
        found.replaced += replaced
        found.discarded += len(discarded)
        found.success.append(self._success())

    def _sample(self) -> tuple[list[Group], list[Group], int]:
        """Return the groups of a step, those that are not trained on, and the number that was replaced."""
        kept, discarded, replaced = list[Group](), list[Group](), 0
        owed, limit = PROMPTS, math.ceil(RefillSettings().most * PROMPTS)
        while len(kept) < PROMPTS:
            # As many as verl has in flight: a batch.
            made = [self._group(self._tasks.draw()) for _ in range(min(owed, PROMPTS))]
            owed -= len(made)
            for group in made:
                if self._arm.new and group.flat and replaced < limit:
                    discarded.append(group)
                    replaced, owed = replaced + 1, owed + self._arm.new
                else:
                    kept.append(group)
        return kept[:PROMPTS], [*discarded, *kept[PROMPTS:]], replaced

    def _group(self, row: int) -> Group:
        task = self._train[row]
        drawn = self._rng.choice(len(WAYS), GROUP, p=softmax(self._logits[task.family]))
        return Group(row, drawn, task.truth[drawn] / 100.0)

    def _calls(self, group: Group) -> int:
        return int(self._train[group.row].calls[group.drawn].sum())

    def _learn(self, groups: Iterable[Group]) -> None:
        gradient = {family: np.zeros(len(WAYS)) for family in FAMILIES}
        for group in groups:
            family, given = self._train[group.row].family, advantages(group.rewards)
            won = np.bincount(group.drawn, weights=given, minlength=len(WAYS))
            gradient[family] += (won - given.sum() * softmax(self._logits[family])) / GROUP
        for family in FAMILIES:
            self._logits[family] = self._logits[family] + RATE * gradient[family]

    def _success(self) -> float:
        shares = [softmax(self._logits[task.family]) @ (task.truth >= SUCCESS) for task in self._held_out]
        return 100.0 * float(np.mean(shares))


@dataclass(frozen=True)
class Figures:
    """What one arm with one seed came to; success in per cent, seconds of tools."""

    before: float
    after: float
    seconds: float
    price: float
    replaced: int
    discarded: int
    at_equal_seconds: float


def _has_called(limit: int, run: Progress) -> bool:
    return run.calls[-1] >= limit


def measure(
    train: Sequence[Outcomes], held_out: Sequence[Outcomes], steps: int, seed: int, call_seconds: float
) -> dict[str, Figures]:
    """Run all arms with one seed.

    Args:
        train, held_out: outcomes of tasks.
        steps: of each arm.
        seed: of tasks and chains.
        call_seconds: that a tool call takes.
    """
    budget, found = 0, dict[str, Figures]()
    for name, arm in ARMS.items():
        whole = Learner(train, held_out, arm, seed).run(lambda run: len(run.calls) > steps)
        budget = budget or whole.calls[-1]  # of the first arm
        equal = Learner(train, held_out, arm, seed).run(partial(_has_called, budget))
        seconds, gained = call_seconds * whole.calls[-1], whole.success[-1] - whole.success[0]
        price = seconds / gained if gained > 0 else math.nan
        counts = (whole.replaced, whole.discarded)
        found[name] = Figures(whole.success[0], whole.success[-1], seconds, price, *counts, equal.success[-1])
    return found


def table(runs: Sequence[Mapping[str, Figures]]) -> str:
    """Return the figures as Markdown: means over seeds with intervals."""
    columns = ("replaced", "discarded", "tool seconds", "success, %", "seconds a point", "success for equal seconds, %")
    lines = [f"| arm | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for name in ARMS:
        each = [run[name] for run in runs]
        cells = [
            str(interval(float(value) for value in values))
            for values in (
                [run.replaced for run in each],
                [run.discarded for run in each],
                [run.seconds for run in each],
                [run.after for run in each],
                [run.price for run in each],
                [run.at_equal_seconds for run in each],
            )
        ]
        cells[3] = f"{interval(run.before for run in each).mean:.0f} → {cells[3]}"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Collect chains, run the arms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=200, help="training tasks, and a quarter as many held-out ones")
    parser.add_argument("--steps", type=int, default=30, help="of eight tasks with eight chains each")
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--call-seconds", type=float, default=5.0, help="that a tool call is taken to last")
    parser.add_argument("--json", type=Path, help="file for all figures")
    given = parser.parse_args()
    train, held_out = collect(given.tasks, "train"), collect(max(1, given.tasks // 4), "heldout")
    runs = [measure(train, held_out, given.steps, seed, given.call_seconds) for seed in given.seeds]
    Console().print(table(runs), markup=False, highlight=False, soft_wrap=True)
    if given.json is not None:
        data = [{name: vars(figures) for name, figures in run.items()} for run in runs]
        given.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
