"""Ratings are kept whole, by any number of viewers, and read whatever became of the file; and they are compared."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from agentfly.cli import app
from agentfly.errors import ConfigError
from agentfly.evaluators.bootstrap import spearman, wilson
from agentfly.viewer.agreement import (
    SCORE,
    CalibrationRow,
    Rated,
    agreements,
    export_ratings,
)
from agentfly.viewer.index import Filters
from agentfly.viewer.rating_choice import Choice, choose_pair, choose_single, matched, pools_of
from agentfly.viewer.ratings import FORMAT, RatedChain, Rating, Ratings, rater_name, run_identity
from agentfly.viewer.runs import find_run
from tests.unit.viewer.small_runs import view_of, write_run

A, B = RatedChain("r" * 16, "chain-a", "img_aaaaaaaaaaaa"), RatedChain("r" * 16, "chain-b", "img_bbbbbbbbbbbb")
PAIR = Rating("task", (A, B), "better", left=1, words="sharper", rater="ann", seconds=2.5, time=10.0)
SINGLE = Rating("task", (A,), score=72.0, time=11.0)
ALL = Filters()


@pytest.fixture
def kept(tmp_path: Path) -> Ratings:
    return Ratings(find_run(write_run(tmp_path / "run", [[10, 90]]), "run"))


@pytest.mark.parametrize("rating", [PAIR, SINGLE, replace(PAIR, verdict="skip"), replace(SINGLE, words="\ud800")])
def test_a_rating_is_read_as_it_was_written(rating: Rating) -> None:
    line = rating.to_json()
    assert json.loads(line)["format"] == FORMAT
    assert Rating.from_dict(json.loads(line)) == replace(rating, words=rating.words.replace("\ud800", "?"))


def test_the_form_of_a_line_is_the_documented_one() -> None:
    assert json.loads(PAIR.to_json()) == {
        "format": "agentfly.rating/1",
        "id": PAIR.id,
        "task": "task",
        "chains": [
            {"run": "r" * 16, "chain": "chain-a", "image": "img_aaaaaaaaaaaa"},
            {"run": "r" * 16, "chain": "chain-b", "image": "img_bbbbbbbbbbbb"},
        ],
        "verdict": "better",
        "left": 1,
        "words": "sharper",
        "rater": "ann",
        "seconds": 2.5,
        "time": 10.0,
    }
    assert "left" not in json.loads(SINGLE.to_json())


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "left"},
        {"verdict": None},
        {"score": 50.0},
        {"left": 2},
        {"left": -1},
        {"chains": ()},
        {"chains": (A, B, A)},
        {"task": ""},
        {"task": "x" * 1001},
        {"rater": "a\nb"},
        {"rater": "x" * 61},
        {"words": "x" * 1001},
        {"seconds": float("nan")},
        {"time": "today"},
        {"id": 7},
    ],
)
def test_wrong_comparisons_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        replace(PAIR, **changes)


@pytest.mark.parametrize("score", [-0.1, 100.1, float("inf"), True, "50", None])
def test_wrong_scores_are_refused(score: Any) -> None:
    with pytest.raises(ValueError, match="0 to 100"):
        replace(SINGLE, score=score)


@pytest.mark.parametrize("image", ["../../etc/passwd", "img_1", "img_aaaaaaaaaaaa/..", 7])
def test_an_image_is_a_handle(image: Any) -> None:
    with pytest.raises(ValueError, match="image"):
        RatedChain("r", "c", image)


@pytest.mark.parametrize(
    ("given", "name"),
    [("", "me"), ("  Ann  Lee ", "Ann Lee"), ("\x1b[2J\u202ex", "\ufffd[2J\ufffdx"), ("x" * 99, "x" * 60)],
)
def test_names_are_short_and_harmless(given: str, name: str) -> None:
    assert rater_name(given) == name


def test_the_last_rating_of_the_same_results_counts(kept: Ratings) -> None:
    kept.add(PAIR)
    kept.add(replace(PAIR, id="2", time=12.0, verdict="tie"))
    kept.add(replace(PAIR, id="3", time=13.0, rater="bob"))
    found, damaged = kept.read()
    assert [(rating.rater, rating.verdict) for rating in found] == [("ann", "tie"), ("bob", "better")]
    assert damaged == 0


def test_undo_takes_back_one_after_the_other_of_this_rater_alone(kept: Ratings) -> None:
    kept.add(PAIR)
    kept.add(replace(SINGLE, rater="ann"))
    kept.add(replace(SINGLE, id="other", rater="bob", time=99.0))
    assert (undone := kept.undo("ann")) is not None
    assert undone.score == 72.0
    assert [rating.rater for rating in kept.read()[0]] == ["ann", "bob"]
    assert kept.undo("ann") == PAIR
    assert kept.undo("ann") is None
    assert [rating.rater for rating in kept.read()[0]] == ["bob"]


def test_damaged_lines_are_counted_and_take_no_other_along(kept: Ratings) -> None:
    kept.add(PAIR)
    with kept.path.open("a", encoding="utf-8") as file:
        file.write('not JSON\n[1]\n{"format": "agentfly.rating/2"}\n\n{"format": "agentfly.rating/1", "chains": 3}\n')
        file.write(PAIR.to_json()[:40])  # a process that was killed
    kept.add(SINGLE)
    found, damaged = kept.read()
    assert found == [PAIR, SINGLE]
    assert damaged == 5


def test_a_full_disk_leaves_the_file_as_it_was(kept: Ratings, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.add(PAIR)
    before = kept.path.read_bytes()
    write = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) > 20:
            return write(file, data[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            kept.add(SINGLE)
    assert kept.path.read_bytes() == before
    kept.add(SINGLE)
    assert len(kept.read()[0]) == 2


def test_a_read_only_run_has_its_ratings_with_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "run", [[10, 90]])
    Ratings(find_run(folder, "run")).add(PAIR)
    monkeypatch.setattr(os, "access", lambda path, _: str(path) not in (str(folder), str(folder / "ratings.jsonl")))
    run = find_run(folder, "run")
    kept = Ratings(run)
    assert kept.elsewhere
    assert kept.path == run.home / "ratings.jsonl"
    kept.add(SINGLE)
    assert kept.read()[0] == [PAIR, SINGLE]  # those of the folder are there still
    assert len((folder / "ratings.jsonl").read_text().splitlines()) == 1


def test_the_identity_of_a_run_does_not_depend_on_its_place(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one", [[1]]), write_run(tmp_path / "other", [[1]])
    first = run_identity(one / "trajectories.jsonl")
    assert first != run_identity(other / "trajectories.jsonl")
    with (one / "trajectories.jsonl").open("a") as file:
        file.write("{}\n")
    (tmp_path / "moved").mkdir()
    assert run_identity((one / "trajectories.jsonl").rename(tmp_path / "moved" / "trajectories.jsonl")) == first
    with pytest.raises(ConfigError, match="cannot be read"):
        run_identity(one / "trajectories.jsonl")


def choices(folder: Path, rater: str, mode: str, count: int, filters: Filters = ALL) -> list[Choice]:
    """The choices of a rater who always takes the left one."""
    run = view_of(folder).runs[folder.name]
    ratings: list[Rating] = []
    found = []
    for number in range(count):
        pools = pools_of(run, "1", filters)
        pairs = [(pool, pool) for pool in pools]
        choice = choose_pair(pairs, ratings, rater) if mode == "pair" else choose_single(pools, ratings, rater)
        found.append(choice)
        if choice.item is None:
            break
        chains = tuple(result.rated for result in choice.item.results)
        verdict: Any = "better" if mode == "pair" else None
        ratings.append(Rating(choice.item.task, chains, verdict, None if verdict else 5.0, rater=rater, time=number))
    return found


def test_each_task_comes_once_before_any_comes_twice(tmp_path: Path) -> None:
    found = choices(write_run(tmp_path / "run", [[1, 2, 3], [1, 2], [1, 2], [5]]), "me", "pair", 99)
    tasks = [choice.item.task for choice in found if choice.item is not None]
    assert sorted(tasks[:3]) == ["task-0", "task-1", "task-2"]
    assert tasks[3:] == ["task-0", "task-0"]
    assert [(choice.done, choice.total, choice.rated) for choice in found] == [
        (0, 3, 0), (1, 3, 1), (2, 3, 2), (3, 3, 3), (3, 3, 4), (3, 3, 5)
    ]  # fmt: skip


def test_the_order_is_the_same_each_time_and_the_sides_depend_on_the_rater(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [[1, 2]] * 12)
    mine, again, others = (choices(folder, name, "pair", 12) for name in ("me", "me", "ann"))
    assert mine == again
    items = [(one.item, other.item) for one, other in zip(mine, others, strict=True) if one.item and other.item]
    assert [one.task for one, _ in items] == [other.task for _, other in items]
    swapped = [one.results == other.results[::-1] for one, other in items]
    assert {*swapped} == {True, False}
    assert [one.task for one, _ in items] != sorted(one.task for one, _ in items)


def test_equal_results_are_scored_once_and_filters_choose(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [[1, 2], [3]])
    assert len(choices(folder, "me", "single", 99)) == 4
    lines = (folder / "trajectories.jsonl").read_text().splitlines()
    with (folder / "trajectories.jsonl").open("a") as file:
        file.write(lines[0].replace('"run-0-0"', '"run-0-9"') + "\n")
    assert len(choices(folder, "me", "single", 99)) == 4
    assert len(choices(folder, "me", "single", 99, Filters(task="task-1"))) == 2
    (gone,) = (folder / "images").glob(f"{json.loads(lines[0])['trajectory']['final_image']}.png")
    gone.unlink()
    assert len(choices(folder, "me", "single", 99)) == 3


def test_two_runs_are_compared_on_the_same_tasks(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "one", [[1], [2], [3]]), write_run(tmp_path / "other", [[1], [2]], shade=9)
    viewer = view_of(one, other)
    pools = {name: pools_of(run, "1", Filters()) for name, run in viewer.runs.items()}
    choice = choose_pair(matched(pools["one"], pools["other"]), [], "me")
    assert choice.total == 2
    assert choice.item is not None
    assert {result.slug for result in choice.item.results} == {"one", "other"}
    same = choose_pair(matched(pools["one"], pools["one"]), [], "me")
    assert (same.item, same.total) == (None, 0)


def rate_all(folder: Path, scores: list[list[float]], *, human: Any) -> None:
    """Write ratings of all pairs and results of a run."""
    kept, run = Ratings(find_run(folder, "r")), view_of(folder).runs[folder.name]
    for pool in pools_of(run, "1", Filters()):
        ordered = sorted(pool.results, key=lambda result: result.n)
        number = int(pool.task.removeprefix("task-"))
        one, other = human(scores[number][0]), human(scores[number][1])
        verdict: Any = "better" if one > other else "worse" if one < other else "tie"
        kept.add(Rating(pool.task, tuple(result.rated for result in ordered), verdict))
        for result, score in zip(ordered, (one, other), strict=True):
            kept.add(Rating(pool.task, (result.rated,), score=score, words="=1+1"))


SCORES = [[float(5 * n), float(95 - 7 * n)] for n in range(12)]


def rows_of(folder: Path) -> list[CalibrationRow]:
    viewer = view_of(folder)
    return list(Rated(viewer).rows(Ratings(find_run(folder, "r")).read()[0]))


def test_agreement_with_an_evaluator_that_people_share_and_with_one_that_turns_all_round(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", SCORES)
    rate_all(folder, SCORES, human=lambda score: score)
    reward, judge = agreements(rows_of(folder))
    assert (reward.evaluator, judge.evaluator) == (SCORE, "judge")
    assert reward.accuracy is not None
    assert judge.accuracy is not None
    assert reward.correlation is not None
    assert judge.correlation is not None
    assert [reward.accuracy.mean, reward.correlation.mean] == pytest.approx([1.0, 1.0])
    assert [judge.accuracy.mean, judge.correlation.mean] == pytest.approx([0.0, -1.0])
    assert reward.accuracy.low < 0.8  # 12 comparisons prove little
    assert "the same preference in 100 %" in reward.in_words()


def test_ties_are_left_out_and_few_ratings_say_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", SCORES)
    rate_all(folder, SCORES, human=lambda score: 50.0)
    reward = agreements(rows_of(folder))[0]
    assert (reward.pairs, reward.ties, reward.accuracy) == (0, 12, None)
    assert (reward.singles, reward.correlation) == (24, None)  # a rater who gives all the same
    assert agreements([]) == []


@pytest.mark.slow
def test_intervals_are_those_of_the_literature() -> None:
    from scipy import stats

    found = wilson(8, 10)
    low, high = stats.binomtest(8, 10).proportion_ci(method="wilson")
    assert [found.low, found.high] == pytest.approx([low, high])
    rng = np.random.default_rng(0)
    one = [float(value) for value in rng.integers(0, 6, 40)]
    other = [float(value) for value in rng.integers(0, 6, 40)]
    rank = spearman(one, other)
    assert rank is not None
    assert rank.mean == pytest.approx(stats.spearmanr(one, other).statistic)
    assert -1 < rank.low < rank.mean < rank.high < 1


def test_the_export_has_scores_and_paths_of_images(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", SCORES[:2], instruction="=cmd" + "x" * 900)
    rate_all(folder, SCORES, human=lambda score: score)
    assert len(export_ratings(view_of(folder), tmp_path / "out" / "r.jsonl")) == 6
    lines = [json.loads(line) for line in (tmp_path / "out" / "r.jsonl").read_text().splitlines()]
    pair, single = lines[0], lines[1]
    assert (pair["format"], pair["kind"], pair["human_preference"]) == ("agentfly.calibration/1", "pair", 0.0)
    assert [result["scores"] for result in pair["results"]] == [
        {SCORE: 0.0, "judge": 100.0},
        {SCORE: 95.0, "judge": 5.0},
    ]
    assert all(Path(path).is_file() for path in (pair["source_path"], *(r["path"] for r in pair["results"])))
    assert (single["human_score"], len(single["instruction"])) == (0.0, 904)
    export_ratings(view_of(folder), tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert (table[0]["a_score"], table[0]["b_score[judge]"], table[1]["b_score"]) == ("0.0", "5.0", "")
    assert table[1]["words"] == "'=1+1"  # no formula of a spreadsheet
    assert table[1]["instruction"].startswith("'=cmd")


def test_a_chain_that_is_gone_has_no_scores_but_its_rating_stays(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", SCORES[:1])
    Ratings(find_run(folder, "r")).add(SINGLE)
    (row,) = rows_of(folder)
    assert (row.human_score, row.results[0].scores, row.results[0].path) == (72.0, {}, "")


def test_ratings_of_nobody_and_lines_that_are_none_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_run(tmp_path / "run", SCORES)
    kept = Ratings(find_run(folder, "r"))
    kept.path.write_text('{"id": "nobody", "rating": 5}\n')
    with pytest.raises(ConfigError, match="there are no ratings yet"):
        export_ratings(view_of(folder), tmp_path / "r.jsonl")
    assert "1 lines of ratings.jsonl are no ratings (agentfly.rating/1) and are left out" in caplog.text
    kept.add(replace(SINGLE, chains=(replace(SINGLE.chains[0], chain="nobody"),)))
    assert len(export_ratings(view_of(folder), tmp_path / "r.jsonl")) == 1
    assert "1 of 1 ratings are of chains or images that these runs do not have" in caplog.text


@pytest.mark.slow
def test_the_command_writes_ratings_and_says_how_well_they_agree(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", SCORES)
    out = tmp_path / "r.csv"
    refused = CliRunner().invoke(app, ["view", str(folder), "--ratings", str(out)])
    assert isinstance(refused.exception, ConfigError)
    assert "there are no ratings yet" in str(refused.exception)
    rate_all(folder, SCORES, human=lambda score: score)
    result = CliRunner().invoke(app, ["view", str(folder), "--ratings", str(out)])
    assert result.exit_code == 0, result.output
    assert "36 ratings" in result.output
    assert "rank correlation 1.00" in result.output
    wrong = CliRunner().invoke(app, ["view", str(folder), "--ratings", str(tmp_path / "r.xlsx")])
    assert "ends in .jsonl or .csv" in str(wrong.exception)
