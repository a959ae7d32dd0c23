"""Compare two runs on the same tasks: the size of their difference, and the odds that it is chance.

Tasks are matched by id. A task is left out and counted where only one run has it, where it is not the same task in
both, or where one run has no score of it. The score of a task that was attempted several times is the mean of its
attempts. All figures rest on the difference d_i = B_i - A_i of a task:

- its mean with a 95 % percentile bootstrap over tasks (Efron and Tibshirani, 1993);
- the p-value of a two-sided sign-flip permutation test (Fisher, 1935; Good, 2005). Under "no difference", plus and
  minus are equally likely for each d_i; p is the share of sign patterns whose mean is at least as far from 0 as the
  observed one. It is exact up to 16 differences other than 0; beyond, it is (1 + hits) / (1 + 10000) over seeded
  random patterns;
- the number of tasks that B wins, ties (within 0.05 points) and loses.

The p-values of task types are not corrected for their number: with many types, some are small by chance. Where both
runs have repeats, pass@k is compared by the same test, from each task's unbiased estimate. Scores of different judges
are not compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from agentfly.agents.trajectory_file import FILE_NAME
from agentfly.errors import ConfigError, unknown_name
from agentfly.evaluation.report.markdown import interval as shown
from agentfly.evaluation.report.markdown import plain, table
from agentfly.evaluation.report.repeats import Interval, passes, values_by_task
from agentfly.evaluation.report.summary import ALL, interval
from agentfly.evaluation.run_folder import read_records
from agentfly.evaluation.same_judge import check_same_judge
from agentfly.evaluation.task_record import TaskRecord, without_hollow_scores
from agentfly.files import write_text

TIE = 0.05  # points of 100: a difference too small for the tables is no win
_ZERO = 1e-9
EXACT = 16
RESAMPLES = 10_000
_CHUNK = 500

Pair = tuple[Sequence[TaskRecord], Sequence[TaskRecord]]


class Comparison(TypedDict):
    """One row: two runs on some tasks, by one evaluator; `a`, `b` and `difference` are points from 0 to 100."""

    tasks: int
    not_scored: dict[str, int]
    a: Interval | None
    b: Interval | None
    difference: Interval | None
    p: float | None
    win: int
    tie: int
    loss: int


class Compared(TypedDict):
    """The rows of one evaluator.

    `pass_at` has pass@k in percent by k, where both runs have repeats; `judged` the days on which its judge answered.
    """

    all: Comparison
    by_type: dict[str, Comparison]
    pass_at: NotRequired[dict[str, Comparison]]
    judged: NotRequired[list[str]]


class RunComparison(TypedDict):
    """The content of `comparison.json`: folders, number of tasks in common, ids of the others, rows by evaluator."""

    a: str
    b: str
    tasks: int
    unmatched: dict[str, list[str]]
    evaluators: dict[str, Compared]


def compare_runs(a: Path, b: Path, evaluators: Sequence[str] = (), *, seed: int = 0) -> RunComparison:
    """Compare two run folders.

    Args:
        a, b: folders of `agentfly eval` or `agentfly replay`; a difference is B minus A.
        evaluators: labels; all that both runs have by default.
        seed: of the permutation test.

    Returns:
        Plain JSON: for each evaluator a row over all tasks and one per task type, and the tasks that were left out.

    Raises:
        ConfigError: a folder holds no run, the runs share no evaluator or no task, or their judges differ.
    """
    first, second = _records(a), _records(b)
    labels = _labels(first, second, evaluators, a, b)
    both = [id_ for id_ in first if id_ in second]
    different = [id_ for id_ in both if first[id_][0].task.fingerprint != second[id_][0].task.fingerprint]
    pairs = [(first[id_], second[id_]) for id_ in both if id_ not in set(different)]
    if not pairs:
        raise ConfigError(f"{str(a)!r} and {str(b)!r} share no task: compare runs on the same data set")
    types = sorted({one[0].task.task_type for one, _ in pairs})
    groups = {name: [pair for pair in pairs if pair[0][0].task.task_type == name] for name in types}
    days = {label: check_same_judge(label, (a, b), (_flat(first), _flat(second))) for label in labels}
    return {
        "a": str(a),
        "b": str(b),
        "tasks": len(pairs),
        "unmatched": {
            "only_a": [id_ for id_ in first if id_ not in second],
            "only_b": [id_ for id_ in second if id_ not in first],
            "different": different,
        },
        "evaluators": {label: _compared(pairs, groups, label, days[label], seed) for label in labels},
    }


def _compared(
    pairs: Sequence[Pair], groups: Mapping[str, Sequence[Pair]], label: str, days: list[str], seed: int
) -> Compared:
    found: Compared = {
        "all": paired(_values(pairs, label), seed=seed),
        "by_type": {name: paired(_values(group, label), seed=seed) for name, group in groups.items()},
    }
    if days:
        found["judged"] = days
    if shares := _pass_at(pairs, label, seed):
        found["pass_at"] = shares
    return found


def paired(values: Sequence[tuple[float | None, float | None]], *, seed: int = 0) -> Comparison:
    """Return the row of two runs on the same tasks.

    Args:
        values: for each task the score of A and that of B, 0 to 100; None for a task without one.
        seed: of the permutation test.
    """
    scored = [(before, after) for before, after in values if before is not None and after is not None]
    differences = [after - before for before, after in scored]
    return {
        "tasks": len(scored),
        "not_scored": {"a": sum(v[0] is None for v in values), "b": sum(v[1] is None for v in values)},
        "a": interval(before for before, _ in scored),
        "b": interval(after for _, after in scored),
        "difference": interval(differences),
        "p": permutation_p(differences, seed=seed) if differences else None,
        "win": sum(d > TIE for d in differences),
        "tie": sum(abs(d) <= TIE for d in differences),
        "loss": sum(d < -TIE for d in differences),
    }


def permutation_p(differences: Sequence[float], *, seed: int = 0) -> float:
    """Return the p-value of the two-sided sign-flip test; 1.0 where all differences are 0.

    Args:
        differences: one per task.
        seed: of the random sign patterns.
    """
    values = np.asarray([d for d in differences if abs(d) > _ZERO], np.float64)
    if values.size == 0:
        return 1.0
    seen = abs(float(values.sum())) - 1e-9 * float(np.abs(values).sum())
    if values.size <= EXACT:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate((sums + value, sums - value))
        return float((np.abs(sums) >= seen).mean())
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(RESAMPLES // _CHUNK):
        signs = rng.integers(0, 2, (_CHUNK, values.size), dtype=np.int8)
        hits += int((np.abs((2.0 * signs - 1.0) @ values) >= seen).sum())
    return (1 + hits) / (1 + RESAMPLES)


def comparison_page(found: RunComparison) -> str:
    """Return the comparison in Markdown."""
    a, b = plain(found["a"]), plain(found["b"])
    parts = [f"# {b} against {a}\n", f"A is {a}, B is {b}.\n"]
    head = ["task type", "tasks", "A", "B", "B - A", "p", "win / tie / loss", "left out"]
    for label, groups in found["evaluators"].items():
        rows = []
        shares = {f"pass@{k} %": row for k, row in groups.get("pass_at", {}).items()}
        for name, group in {**groups["by_type"], f"**{ALL}**": groups["all"], **shares}.items():
            means = shown(group["a"]), shown(group["b"]), shown(group["difference"], sign="+")
            p = "–" if group["p"] is None else f"{group['p']:.4f}"
            counts = f"{group['win']} / {group['tie']} / {group['loss']}"
            left_out = f"{group['not_scored']['a']} / {group['not_scored']['b']}"
            rows.append([name, str(group["tasks"]), *means, p, counts, left_out])
        parts += [f"## {plain(label)}\n", table(head, rows)]
        if "judged" in groups:
            parts.append(f"The same judge in both, which answered on {', '.join(groups['judged'])} (UTC).\n")
    parts.append(
        "Means from 0 to 100 with 95 % bootstrap intervals over tasks; p of a two-sided sign-flip permutation test, "
        "not corrected for the number of task types; left out are tasks that A / B have no score of. With repeats, a "
        "task's score is the mean of its attempts, and pass@k their unbiased estimate.\n"
    )
    reasons = {
        "only_a": "that only A has",
        "only_b": "that only B has",
        "different": "that have other words or images in A than in B",
    }
    lines = [
        f"- {len(ids)} tasks {reasons[reason]}: {plain(', '.join(ids[:10]))}{' …' if len(ids) > 10 else ''}\n"
        for reason, ids in found["unmatched"].items()
        if ids
    ]
    parts += ["Not compared:\n", "".join(lines)] if lines else ["Every task of both runs was compared.\n"]
    return "\n".join(parts)


def write_comparison(found: RunComparison, out: Path) -> None:
    """Write `comparison.json` and `comparison.md` into a folder, which is made."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "comparison.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    write_text(out / "comparison.md", comparison_page(found))


def _records(folder: Path) -> dict[str, list[TaskRecord]]:
    """Return the attempts of a run by the id of their task."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise ConfigError(f"there is no run in {str(folder)!r}: name the --out folder of `agentfly eval`")
    last = {record.id: record for record in without_hollow_scores(read_records(path))}
    if not last:
        raise ConfigError(f"the run in {str(folder)!r} has no finished task")
    found: dict[str, list[TaskRecord]] = {}
    for record in last.values():
        found.setdefault(record.task_id, []).append(record)
    return found


def _flat(run: Mapping[str, Sequence[TaskRecord]]) -> list[TaskRecord]:
    return [record for attempts in run.values() for record in attempts]


def _labels(
    first: Mapping[str, Sequence[TaskRecord]],
    second: Mapping[str, Sequence[TaskRecord]],
    wanted: Sequence[str],
    a: Path,
    b: Path,
) -> list[str]:
    has_a, has_b = (dict.fromkeys(label for r in _flat(run) for label in r.scores) for run in (first, second))
    common = [label for label in has_a if label in has_b]
    if not common:
        raise ConfigError(
            f"the runs share no evaluator ({', '.join(has_a)} in {a}; {', '.join(has_b)} in {b}): score one again with "
            "`agentfly replay RUN --evaluator …`"
        )
    for label in wanted:
        if label not in common:
            raise ConfigError(unknown_name("evaluator of both runs", label, common))
    return list(wanted) or common


def _values(pairs: Sequence[Pair], label: str) -> list[tuple[float | None, float | None]]:
    return [(_mean(one, label), _mean(other, label)) for one, other in pairs]


def _mean(attempts: Sequence[TaskRecord], label: str) -> float | None:
    values = [value for record in attempts if (value := record.value(label)) is not None]
    return float(np.mean(values)) if values else None


def _pass_at(pairs: Sequence[Pair], label: str, seed: int) -> dict[str, Comparison]:
    """Return pass@k in percent for each k that some task has in both runs; empty without repeats in both."""
    values = [[values_by_task(attempts, label) for attempts in pair] for pair in pairs]
    most = max((min(max(map(len, v.values()), default=0) for v in pair) for pair in values), default=0)
    found: dict[str, Comparison] = {}
    for k in range(1, most + 1) if most > 1 else ():
        shares = [[next(iter(passes(v, k).values()), None) for v in pair] for pair in values]
        # A task with fewer attempts has no estimate of pass@k, and is left out of this row.
        percents = [(100.0 * a, 100.0 * b) for a, b in shares if a is not None and b is not None]
        found[str(k)] = paired(percents, seed=seed)
    return found
