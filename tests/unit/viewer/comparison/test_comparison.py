"""Two sides on the same tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentfly.agents.trajectory import StopReason
from agentfly.evaluation.compare import paired
from agentfly.viewer.comparison.sides import PartChoice, Side, choose_sides, part_choices, side_names
from agentfly.viewer.comparison.tasks import Compared, compare
from agentfly.viewer.index import Index
from agentfly.viewer.runs.folder import RunFolder
from tests.unit.viewer.made import line, run_of

NO_WISH = dict.fromkeys(("part_a", "step_a", "part_b", "step_b"))


def evaluation(folder: Path, scores: dict[str, float | None], **changes: Any) -> Index:
    run, _ = run_of(
        folder,
        *(
            line(f"{folder.name}-{task}", task=task, score=score, type=task[:1], step=None, validate=None, **changes)
            for task, score in scores.items()
        ),
    )
    index = Index(run)
    index.refresh()
    return index


def compared(first: Index, second: Index) -> Compared:
    a, b = choose_sides(("a", part_choices(first)), ("b", part_choices(second)), NO_WISH)
    return compare(first, a, second, b)


def test_tasks_are_paired_and_sorted_by_their_difference(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", {"x1": 10.0, "x2": 90.0, "y1": 50.0, "y2": None, "only a": 1.0})
    b = evaluation(tmp_path / "b", {"x1": 95.0, "x2": 40.0, "y1": 50.0, "y2": 70.0, "only b": 1.0, "more b": 2.0})
    found = compared(a, b)
    assert [(pair.task, pair.difference) for pair in found.pairs] == [
        ("x1", 85.0),
        ("y1", 0.0),
        ("x2", -50.0),
        ("y2", None),
    ]
    assert (found.only_a, found.only_b) == (("only a",), ("only b", "more b"))
    rows = dict(found.rows)
    assert rows["all"] == paired([(10.0, 95.0), (50.0, 50.0), (90.0, 40.0), (None, 70.0)])
    assert rows["all"]["not_scored"] == {"a": 1, "b": 0}
    assert (rows["x"]["win"], rows["x"]["loss"], rows["y"]["tie"]) == (1, 1, 1)


def test_filters_of_the_tasks(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", {"x1": 10.0, "x2": 90.0, "x3": 50.0, "y4": None, "y5": 99.0})
    b = evaluation(tmp_path / "b", {"x1": 95.0, "x2": 40.0, "x3": 20.0, "y4": 30.0, "y5": 99.0})
    found = compared(a, b)
    assert [pair.task for pair in found.shown("b", "")] == ["x1"]
    assert [pair.task for pair in found.shown("a", "")] == ["x2", "x3"], "the greatest loss first"
    assert [pair.task for pair in found.shown("fail", "")] == ["x3", "y4"]
    assert [pair.task for pair in found.shown("", "y")] == ["y5", "y4"]


def test_a_task_with_other_words_is_not_compared(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", {"x": 1.0}, instruction="Remove the star")
    b = evaluation(tmp_path / "b", {"x": 2.0}, instruction="Remove the moon")
    found = compared(a, b)
    assert found.pairs == ()
    assert found.different == ("x",)


def test_a_chain_that_a_fault_ended_has_no_score(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", {"x": 80.0}, stop_reason=StopReason.BACKEND_ERROR)
    b = evaluation(tmp_path / "b", {"x": 80.0})
    assert compared(a, b).pairs[0].difference is None


def test_several_chains_of_a_task_count_as_their_mean(tmp_path: Path) -> None:
    lines = [line(f"{n}", task="x", score=score, step=None, validate=None) for n, score in enumerate((20.0, 60.0))]
    run, _ = run_of(tmp_path / "a", *lines)
    a = Index(run)
    a.refresh()
    b = evaluation(tmp_path / "b", {"x": 50.0})
    pair = compared(a, b).pairs[0]
    assert (pair.a.score, pair.a.chains, pair.difference) == (40.0, 2, 10.0)


def test_of_one_training_the_first_and_the_last_validation_are_compared(tmp_path: Path) -> None:
    steps = [line(f"v{step}", task="x", step=step, validate=True, score=10.0 * step) for step in (0, 4, 8)]
    run, _ = run_of(tmp_path / "run", *steps, line("t", task="x", step=9, score=100.0))
    index = Index(run)
    index.refresh()
    parts = part_choices(index)
    a, b = choose_sides(("run", parts), ("run", parts), NO_WISH)
    assert (a.step, b.step) == (0, 8)
    assert b.moment == "validation at step 8"
    assert compare(index, a, index, b).pairs[0].difference == 80.0
    a, b = choose_sides(("run", parts), ("other", parts), NO_WISH | {"step_a": 4})
    assert (a.step, b.step) == (4, 8)


def test_of_a_quickstart_the_warm_start_and_the_trained_policy_are_compared() -> None:
    parts = (
        PartChoice(1, "training", False, (1, 2)),
        PartChoice(2, "warm start, greedy", False, ()),
        PartChoice(3, "warm start, sampled", False, ()),
        PartChoice(4, "trained, greedy", False, ()),
        PartChoice(5, "trained, sampled", False, ()),
    )
    a, b = choose_sides(("q", parts), ("q", parts), NO_WISH)
    assert (a.part.label, b.part.label) == ("warm start, greedy", "trained, greedy")
    a, b = choose_sides(("q", parts), ("q", parts), NO_WISH | {"part_a": 3})
    assert (a.part.label, b.part.label) == ("warm start, sampled", "trained, sampled")
    a, b = choose_sides(("q", parts), ("r", parts), NO_WISH)
    assert (a.part.label, b.part.label) == ("trained, greedy", "trained, greedy")


LONG = "warm-start-greedy-on-held-out-tasks-of-"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("runs/before", "runs/after"), ("before", "after")),
        (("x/run", "y/run"), ("x/run", "y/run")),
        (("x/eval/run", "y/eval/run"), ("slug-0", "slug-1")),
        ((f"runs/{LONG}may", f"runs/{LONG}june"), ("…tasks-of-may", "…tasks-of-june")),
        ((f"runs/{LONG}", f"runs/{LONG}{'z' * 99}"), ("…tasks-of-", f"…tasks-of-{'z' * 9}…{'z' * 12}")),
        ((f"runs/a{'z' * 40}", f"runs/b{'z' * 40}"), (f"a{'z' * 18}…{'z' * 12}", f"b{'z' * 18}…{'z' * 12}")),
        ((f"runs/{'z' * 40}a", f"runs/{'z' * 40}b"), (f"…{'z' * 8}a", f"…{'z' * 8}b")),
    ],
)
def test_the_names_of_two_runs_are_short_and_differ(paths: tuple[str, str], names: tuple[str, str]) -> None:
    part = PartChoice(1, "", False, ())
    runs = [RunFolder(Path(path), "evaluation", f"slug-{number}") for number, path in enumerate(paths)]
    a, b = ((run, Side(run.slug, part, None, (part,))) for run in runs)
    assert side_names(a, b) == names
    assert all(len(name) <= 32 for name in names)


def test_two_moments_of_one_run_have_their_own_names() -> None:
    run = RunFolder(Path("runs/q"), "quickstart", "q")
    greedy, held_out = PartChoice(2, "warm start, greedy", False, ()), PartChoice(1, "training", True, (0, 8))
    first, last = Side("q", held_out, 0, ()), Side("q", held_out, 1000, ())
    assert side_names((run, Side("q", greedy, None, ())), (run, last)) == (
        "warm start, greedy",
        "training, validatio…at step 1000",
    )
    assert side_names((run, first), (run, last)) == ("…at step 0", "…at step 1000")
    assert side_names((run, first), (run, first)) == ("the first choice", "the second choice")


@pytest.mark.parametrize("part", [99, -1])
def test_a_part_that_is_not_there_is_passed_over(part: int) -> None:
    parts = (PartChoice(1, "", False, ()),)
    a, _ = choose_sides(("q", parts), ("q", parts), NO_WISH | {"part_a": part})
    assert a.part.part == 1
