"""How well the policy does at each task, and the choice of the tasks from which it can learn.

A chain of reward r, cut to 0 to 1, counts as r of a success and 1 - r of a failure (rewards that are no yes or no:
Agrawal and Goyal, arXiv:1111.1797, section 1.2). For each task the counts won and lost add up, each halved every
`half_life` steps, for the policy changes. With the mean reward m of all tasks of its type, counted in the same way,

    type:  m = (1 + won of the type) / (2 + won and lost of the type)
    task:  p ~ Beta(strength * m + won, strength * (1 - m) + lost)

so that a task without chains of its own is taken to be like others of its type, and counts of long ago are forgotten.
To draw a task, `candidates` tasks are taken at random, a p is drawn for each, and the task with the greatest

    (1 - p) * (1 - p^n - (1 - p)^n)

is trained on: what is left to gain, times the chance that the n chains of its group do not all get the same reward, if
rewards are 0 or 1. GRPO learns nothing from a group whose rewards are equal, and from any other about as much, since it
divides by their deviation. A factor p * (1 - p), the "learnability" of Rutherford and others (arXiv:2408.15099), would
pass by tasks of rare success, and did worse in benchmarks/sampling.py. To draw p from a posterior that forgets is the
way of MoPPS (arXiv:2507.04632), which has no types, compares all tasks, and aims at p = 0.5.

A task is not drawn again until half of the tasks have been drawn after it: a step does not have it twice, and no few
tasks are trained on alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agentfly.errors import TrainingError

SOLVED, UNSOLVED = 0.9, 0.1  # expected rewards


class TaskDifficulty:
    """Estimates of the tasks of a run.

    Args:
        kinds: type of each task, by its row.
        chains: of a group.
        candidates: tasks of which one is drawn.
        half_life: in steps.
        strength: chains that the mean of its type counts for.
        seed: of the choice; None for another choice in each run.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        *,
        chains: int,
        candidates: int = 4,
        half_life: float = 20.0,
        strength: float = 2.0,
        seed: int | None = 0,
    ) -> None:
        names = {name: place for place, name in enumerate(dict.fromkeys(kinds))}
        self._kind = np.array([names[kind] for kind in kinds])
        self._tasks, self._types = _Counts(len(kinds), half_life), _Counts(len(names), half_life)
        self._chains, self._candidates, self._strength = chains, candidates, strength
        self._rng = np.random.default_rng(seed)
        # The number of each task's last draw, from 1; a number as long ago as this one keeps no task back.
        self._drawn_at, self._draws = np.full(len(kinds), -len(kinds)), 0
        self._step = 0

    def draw(self) -> int:
        """Return the row of the next task to train on."""
        count = len(self._kind)
        waits, found = min(self._draws, count // 2), list[int]()
        while len(found) < min(self._candidates, count - waits):
            row = int(self._rng.integers(count))
            if self._draws - self._drawn_at[row] >= count // 2 and row not in found:
                found.append(row)
        won, lost = self._posterior(np.array(found))
        p, n = self._rng.beta(won, lost), self._chains
        best = found[int(np.argmax((1.0 - p) * (1.0 - p**n - (1.0 - p) ** n)))]
        self._draws += 1
        self._drawn_at[best] = self._draws
        return best

    def expected(self, rows: Sequence[int]) -> np.ndarray:
        """Return the expected reward of tasks, 0 to 1, shape (rows,)."""
        won, lost = self._posterior(np.asarray(rows, int))
        return np.asarray(won / (won + lost))

    def observe(self, chains: Iterable[tuple[int, float]], step: int) -> dict[str, float]:
        """Take in the chains of a step, those of groups that were not trained on too, and return metrics.

            curriculum/expected    mean reward that the estimates expected of these tasks, 0 to 1
            curriculum/error       mean distance of a task's mean reward from what was expected of it
            curriculum/seen        share of all tasks that were ever observed
            curriculum/solved      share of all tasks with an expected reward above 0.9, now
            curriculum/unsolved    the same, below 0.1

        Args:
            chains: row and reward of each.
            step: its number.
        """
        rewards: dict[int, list[float]] = {}
        for row, reward in chains:
            rewards.setdefault(row, []).append(min(1.0, max(0.0, reward)))
        self._step = step
        rows = list(rewards)
        expected, means = self.expected(rows), np.array([np.mean(rewards[row]) for row in rows])
        for row, found in rewards.items():
            for counts, place in ((self._tasks, row), (self._types, int(self._kind[row]))):
                counts.add(place, sum(found), len(found) - sum(found), step)
        whole = self.expected(range(len(self._kind)))
        return {
            "curriculum/expected": float(expected.mean()),
            "curriculum/error": float(np.abs(expected - means).mean()),
            "curriculum/seen": float((self._tasks.at >= 0).mean()),
            "curriculum/solved": float((whole > SOLVED).mean()),
            "curriculum/unsolved": float((whole < UNSOLVED).mean()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next draws depend on, as plain values."""
        return {
            "tasks": self._tasks.to_dict(),
            "types": self._types.to_dict(),
            "drawn_at": self._drawn_at.tolist(),
            "draws": self._draws,
            "step": self._step,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            TrainingError: it is of other tasks.
        """
        if (count := len(state["tasks"]["at"])) != len(self._kind):
            raise TrainingError(
                f"the checkpoint has the difficulty of {count} tasks, and the run has {len(self._kind)}: resume with "
                "the tasks that it began with, or start anew (trainer.resume_mode=disable)"
            )
        self._tasks.load(state["tasks"])
        self._types.load(state["types"])
        self._drawn_at, self._draws = np.array(state["drawn_at"]), state["draws"]
        self._step = state["step"]
        self._rng.bit_generator.state = state["rng"]

    def _posterior(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return both parameters of the Beta distribution of each row, at the step of the last observation."""
        kind_won, kind_lost = self._types.now(self._kind[rows], self._step)
        mean = (1.0 + kind_won) / (2.0 + kind_won + kind_lost)
        won, lost = self._tasks.now(rows, self._step)
        return self._strength * mean + won, self._strength * (1.0 - mean) + lost


class _Counts:
    """Successes and failures, which are halved every `half_life` steps; those of never are at step -1."""

    def __init__(self, size: int, half_life: float) -> None:
        self._half_life = half_life
        self._won, self._lost, self.at = np.zeros(size), np.zeros(size), np.full(size, -1)

    def now(self, places: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        left = 0.5 ** ((step - self.at[places]) / self._half_life)
        return self._won[places] * left, self._lost[places] * left

    def add(self, place: int, won: float, lost: float, step: int) -> None:
        before = self.now(np.array([place]), step)
        self._won[place], self._lost[place] = before[0][0] + won, before[1][0] + lost
        self.at[place] = step

    def to_dict(self) -> dict[str, list[float]]:
        return {"won": self._won.tolist(), "lost": self._lost.tolist(), "at": self.at.tolist()}

    def load(self, state: Mapping[str, Any]) -> None:
        self._won, self._lost, self.at = (np.array(state[name]) for name in ("won", "lost", "at"))
