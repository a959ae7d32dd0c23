"""Several attempts at each task: pass@k against all subsets, intervals over tasks, costs, and comparisons."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from agentfly.agents.trajectory_file import FILE_NAME
from agentfly.datasets import EditTask
from agentfly.evaluation import TaskRecord, compare_runs, comparison_page
from agentfly.evaluation.replay import read_recording
from agentfly.evaluation.report.markdown import run_page
from agentfly.evaluation.report.repeats import pass_at_k, repeats_of
from agentfly.evaluation.report.summary import About, summarise
from agentfly.evaluation.run_folder import read_records
from agentfly.evaluators.judge.settings import JudgeUsage
from agentfly.images import ImageStore
from tests.unit.evaluation.agents import PlainAgent, answered, record, run, task

ABOUT: About = {"agent": "a", "data": "d", "model": "m", "split": None}


@pytest.mark.parametrize("attempts", [1, 4, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_success(attempts: int) -> None:
    for successes in range(attempts + 1):
        outcomes = [number < successes for number in range(attempts)]
        for k in range(1, attempts + 1):
            subsets = list(combinations(outcomes, k))
            share = sum(map(any, subsets)) / len(subsets)
            assert pass_at_k(attempts, successes, k) == pytest.approx(share)


def attempt(id_: str, repeat: int, value: float | None, **more: object) -> TaskRecord:
    """One of several attempts at a task."""
    name = id_ if repeat == 1 else f"{id_}#{repeat}"
    made = record(name, value, **more)  # type: ignore[arg-type]
    task = replace(made.task, instruction=f"do {id_}")
    return replace(made, task=task, trajectory=replace(made.trajectory, repeat=repeat, seed=0))


def attempts(**values: list[float | None]) -> list[TaskRecord]:
    return [attempt(id_, n, value) for id_, scores in values.items() for n, value in enumerate(scores, 1)]


def test_figures_of_repeats_by_hand() -> None:
    records = attempts(a=[100.0, 0.0, 0.0, 100.0], b=[0.0, 0.0, 0.0, 100.0], c=[50.0, None, 70.0, None])
    found = repeats_of(records, "judge")
    # pass@2: a 1 - C(2,2)/C(4,2) = 5/6, b 1 - C(3,2)/C(4,2) = 1/2, c has two attempts without success.
    assert found["pass_at"]["1"]["mean"] == pytest.approx((1 / 2 + 1 / 4 + 0) / 3, abs=1e-3)
    assert found["pass_at"]["2"]["mean"] == pytest.approx((5 / 6 + 1 / 2 + 0) / 3, abs=1e-3)
    assert found["pass_at"]["3"]["mean"] == 1.0 - 1 / 8
    assert found["tasks_at"] == {"1": 3, "2": 3, "3": 2, "4": 2}
    assert found["mean_at_k"] is not None
    assert found["mean_at_k"]["mean"] == pytest.approx((50 + 25 + 60) / 3, abs=1e-3)
    # Unbiased variances 10000 / 3, 2500 and 200.
    assert found["variance_within"] == pytest.approx((10000 / 3 + 2500 + 200) / 3, abs=1e-3)
    assert found["variance_between"] == pytest.approx(325.0, abs=1e-3)


def test_attempts_at_one_task_are_not_taken_for_tasks() -> None:
    records = attempts(a=[100.0] * 8, b=[0.0] * 8)
    figures = summarise(records, ["judge"], ABOUT)["all"]
    assert (figures["tasks"], figures["attempts"]) == (2, 16)
    score = figures["scores"]["judge"]["score"]
    assert score is not None
    # Of two tasks the interval is all there is, however often they were attempted.
    assert (score["low"], score["high"]) == (0.0, 100.0)
    page = run_page(summarise(records, ["judge"], ABOUT))
    assert "| 8 | 50.0 [0.0, 100.0] | 50.0 [0.0, 100.0] | 2 | 80 |" in page
    assert "repeats" not in summarise(records[:1], ["judge"], ABOUT)["all"]


def test_a_point_costs_what_all_attempts_took_over_all_points() -> None:
    made = [attempt("a", 1, 40.0), attempt("b", 1, 10.0)]
    usage = JudgeUsage(samples=1, requests=1, cost=0.25)
    records = [replace(one, judges={"judge": usage}) for one in made]
    turn = records[0].trajectory.turns[0]
    call = replace(turn.tools[0], images=("img_1",), seconds=2.0)
    looked = replace(call, looks=True)
    answer = replace(call, name="give_answer", seconds=0.0)  # names the image of the edit
    records[0].trajectory.turns[0] = replace(turn, tools=(call, looked, replace(call, error="no"), answer))
    costs = summarise(records, ["judge"], ABOUT)["all"]["cost"]
    assert costs is not None
    assert costs["attempt"] == {"tokens": 10.0, "judge": 0.25, "tool_seconds": 3.05, "edits": 0.5}
    assert costs["point"] == {"tokens": 0.4, "judge": 0.01, "tool_seconds": 0.122, "edits": 0.02}
    assert "| point of judge | 0.4 | 0.01 | 0.122 | 0.02 |" in run_page(summarise(records, ["judge"], ABOUT))


def put(folder: Path, records: list[TaskRecord]) -> Path:
    folder.mkdir()
    (folder / FILE_NAME).write_text("".join(f"{one.to_json()}\n" for one in records))
    return folder


def test_runs_are_compared_by_the_means_of_their_tasks(tmp_path: Path) -> None:
    a = put(tmp_path / "a", attempts(t=[100.0, 0.0], u=[0.0, 0.0], v=[10.0, 30.0]))
    b = put(tmp_path / "b", attempts(t=[100.0, 100.0, 100.0], u=[0.0, None, 60.0], v=[20.0]))
    found = compare_runs(a, b)
    row = found["evaluators"]["judge"]["all"]
    assert found["tasks"] == row["tasks"] == 3
    assert row["difference"] is not None
    assert row["difference"]["mean"] == pytest.approx((50 + 30 + 0) / 3, abs=1e-3)
    assert (row["win"], row["tie"], row["loss"]) == (2, 1, 0)
    shares = found["evaluators"]["judge"]["pass_at"]
    assert shares.keys() == {"1", "2"}
    assert shares["1"]["difference"] is not None
    assert shares["1"]["difference"]["mean"] == pytest.approx(50 / 3, abs=1e-3)
    # v has one attempt in B: it has no estimate of pass@2.
    assert shares["2"]["tasks"] == 2
    assert "| pass@2 % | 2 |" in comparison_page(found)
    once = put(tmp_path / "once", attempts(t=[100.0], u=[0.0], v=[10.0]))
    assert "pass_at" not in compare_runs(once, b)["evaluators"]["judge"]


async def test_each_attempt_is_kept_with_its_number_and_seed_and_more_may_follow(tmp_path: Path) -> None:
    tasks = [task(0), task(1)]
    agent = PlainAgent()
    records = await run(tmp_path / "run", agent, tasks, repeats=3, seed=7)
    assert sorted(agent.asked) == ["t0", "t0#2", "t0#3", "t1", "t1#2", "t1#3"]
    assert [one.id for one in records] == ["t0", "t0#2", "t0#3", "t1", "t1#2", "t1#3"]
    kept = {one.id: one for one in read_records(tmp_path / "run" / FILE_NAME)}
    assert {(one.task_id, one.trajectory.repeat, one.trajectory.seed) for one in kept.values()} == {
        (id_, repeat, 7) for id_ in ("t0", "t1") for repeat in (1, 2, 3)
    }
    # Only what is new is attempted, and a replay knows which attempt is which.
    again = PlainAgent()
    await run(tmp_path / "run", again, tasks, repeats=4, seed=7)
    assert sorted(again.asked) == ["t0#4", "t1#4"]
    recorded = read_recording(tmp_path / "run")
    # They stand in the order in which they ended.
    assert sorted(chain.trajectory.repeat for chain in recorded.chains if chain.id.startswith("t1")) == [1, 2, 3, 4]


async def test_a_run_without_repeats_has_no_numbers(tmp_path: Path) -> None:
    def act(task: EditTask, store: ImageStore) -> object:
        return answered(task, None)

    await run(tmp_path / "run", PlainAgent(act), [task(0)])
    text = (tmp_path / "run" / FILE_NAME).read_text()
    assert '"repeat"' not in text
    assert '"seed"' not in text
