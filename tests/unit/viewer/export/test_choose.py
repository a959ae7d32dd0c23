"""The chains of an export: which are taken where there are too many."""

from __future__ import annotations

from pathlib import Path

from agentfly.viewer.export.choose import choose_chains
from agentfly.viewer.export.subset import subset
from agentfly.viewer.index import Filters
from tests.unit.viewer.export.made import chosen_keys, run_with
from tests.unit.viewer.made import line


def test_all_chains_of_a_small_run(tmp_path: Path) -> None:
    run = run_with(tmp_path, *(line(f"c{n}") for n in range(5)))
    choice = choose_chains(run.index, 5)
    assert (len(choice.chains), choice.words()) == (5, "All 5 chains of the run.")


def test_trouble_the_best_the_worst_and_every_type_are_in_it(tmp_path: Path) -> None:
    lines = [line(f"c{n}", score=float(n % 90), type=f"type-{n % 4}", step=n // 10) for n in range(200)]
    lines += [line("best", score=99.0), line("worst", score=-1.0), line("unscored", score=None)]
    lines += [line("no-result", final_image=None), line("malformed", reward_error="it failed")]
    run = run_with(tmp_path, *lines)
    choice = choose_chains(run.index, 40)
    keys = chosen_keys(run.index, choice.chains)
    assert len(keys) == len(set(keys)) == 40
    assert {"best", "worst", "unscored", "no-result", "malformed"} <= set(keys)
    types = run.index.query(f"SELECT DISTINCT task_type FROM chains WHERE n IN ({', '.join(map(str, choice.chains))})")
    assert {row["task_type"] for row in types} >= {f"type-{n}" for n in range(4)}
    assert choice == choose_chains(run.index, 40)
    words = choice.words()
    assert words.startswith("40 of 205 chains of the run: 3 with alarms, 4 best, 4 worst")
    assert words.endswith("The others were left out.")


def test_groups_are_taken_whole(tmp_path: Path) -> None:
    lines = [line(f"c{n}", group=f"g{n // 4}", step=n // 8, score=50.0 + n % 3, type=f"t{n % 2}") for n in range(160)]
    run = run_with(tmp_path, *lines)
    choice = choose_chains(run.index, 40)
    assert dict(choice.reasons)["in whole groups"] >= 4
    counts = run.index.query(
        f"SELECT group_id, COUNT(*) AS c FROM chains WHERE n IN ({', '.join(map(str, choice.chains))}) GROUP BY 1"
    )
    assert [row["group_id"] for row in counts if row["c"] == 4][:1] == ["g0"]


def test_one_alarm_does_not_crowd_out_the_others(tmp_path: Path) -> None:
    lines = [line(f"u{n}", score=None) for n in range(300)] + [line("lone", final_image=None)]
    run = run_with(tmp_path, *lines)
    choice = choose_chains(run.index, 20)
    assert "lone" in chosen_keys(run.index, choice.chains)


def test_chains_that_must_not_be_in_it_are_not(tmp_path: Path) -> None:
    run = run_with(tmp_path, *(line(f"c{n}", score=float(n)) for n in range(30)))
    for most, kept in ((30, 29), (10, 10)):
        choice = choose_chains(run.index, most, without=lambda n: n == 30)
        assert 30 not in choice.chains
        assert len(choice.chains) == kept
    assert "29 of 30" in choose_chains(run.index, 30, without=lambda n: n == 30).words()


def test_an_empty_run(tmp_path: Path) -> None:
    assert choose_chains(run_with(tmp_path).index, 10).chains == ()


def test_a_subset_keeps_numbers_and_does_not_follow_the_run(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", *(line(f"c{n}") for n in range(6)))
    picked = subset(run, (2, 5), tmp_path)
    assert picked.index.refresh()
    assert sorted(row.n for row in picked.index.rows(Filters())[0]) == [2, 5]
    assert picked.index.line(5).trajectory.id == run.index.row(5).id
    assert run.index.state().chains == 6
