from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agentfly.agents.trajectory import StopReason
from agentfly.agents.trajectory_file import FILE_NAME
from agentfly.viewer.overview.build import Overview
from agentfly.viewer.overview.cells import Cells
from agentfly.viewer.overview.figures import bar, evaluators_of, quickstart_rows, summary_rows
from agentfly.viewer.overview.gains import Mean, by_step, paired, window
from agentfly.viewer.overview.troubles import troubles_of_trial
from agentfly.viewer.pages.overview import overview_of
from tests.unit.viewer.overview.made import add_chains, add_metrics, opened, training


def overview(folder: Path) -> Overview:
    run = opened(folder)
    return overview_of(run, run.up_to_date(60.0))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Overview:
    return overview(training(tmp_path_factory.mktemp("a") / "run"))


def test_it_says_that_it_learned_and_at_which_tasks(learned: Overview) -> None:
    words = [sentence.words for sentence in learned.sentences]
    assert words[0].startswith("The held-out score rose by 35 ± 29.3")
    assert words[1] == "Clearly better at named; no clear change at look."
    assert words[2].startswith("The reward rose by ")
    assert "at steps 1 to 2" in words[2]
    assert learned.sentences[0].level == "good"


def test_the_tables_compare_the_same_held_out_tasks(learned: Overview) -> None:
    table = next(table for table in learned.tables if table.title.startswith("Held-out"))
    named = next(row for row in table.rows if row.name == "named")
    assert named.gain == ("+60.0 ± 0.0", "good")
    assert (named.before.text, named.after.text, named.count) == ("22", "82", "3")  # type: ignore[union-attr]
    assert (named.chains.type, named.chains.step, named.chains.validate) == ("named", 8, True)


def test_a_run_that_does_not_learn_claims_nothing(tmp_path: Path) -> None:
    found = overview(training(tmp_path / "run", learns=False))
    assert found.sentences[0].words.startswith("The held-out score did not clearly change")
    assert not any(sentence.level for sentence in found.sentences)


def test_the_worst_chains_come_first_one_a_prompt(learned: Overview) -> None:
    failures = learned.examples[0]
    assert failures.title == "What a failure looks like"
    assert [row.score for row in failures.rows] == sorted(row.score for row in failures.rows)  # type: ignore[type-var]
    assert len({row.group_id for row in failures.rows}) == len(failures.rows)
    assert failures.rows[0].score == 20
    assert (failures.more.step, failures.more.step_to, failures.more.down) == (7, 8, False)


def test_a_finished_run_is_finished(learned: Overview) -> None:
    assert learned.progress.status == "finished, step 8 of 8"
    assert learned.progress.stage == "finished"
    assert ("8", "step of 8") in learned.tiles
    assert {section.title for section in learned.sections} >= {"Learning", "Rollout", "Tools", "Time"}
    assert [chart.title for chart in learned.glance] == ["Reward", "Held-out score"]


def test_a_run_in_progress_says_how_far_it_is(tmp_path: Path) -> None:
    folder = training(tmp_path / "run")
    text = (folder / "config.yaml").read_text().replace("total_training_steps: 8", "total_training_steps: 20")
    (folder / "config.yaml").write_text(text)
    found = overview(folder)
    assert found.progress.status == "running, step 8 of 20"


def test_a_run_that_died_is_not_running_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = training(tmp_path / "run")
    text = (folder / "config.yaml").read_text().replace("total_training_steps: 8", "total_training_steps: 20")
    (folder / "config.yaml").write_text(text)
    run = opened(folder)
    assert overview_of(run, run.up_to_date(60)).progress.stage == "running"
    later = time.time() + 3600
    monkeypatch.setattr("time.time", lambda: later)
    # No file has changed, so the page of before is still at hand.
    assert overview_of(run, run.up_to_date(60)).progress.status == "stopped, step 8 of 20"


def test_a_run_without_anything_has_no_words(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("agentfly: {}\n")
    found = overview(tmp_path)
    assert (found.sentences, found.tables, found.examples, found.troubles, found.sections) == ((), (), (), (), ())
    assert found.progress.status == "no step is finished yet"


def test_one_step_is_no_comparison(tmp_path: Path) -> None:
    found = overview(training(tmp_path / "run", 1))
    assert found.sentences[-1].words.startswith("There is one step so far, step 1")


def test_new_steps_change_the_revision_and_the_page(tmp_path: Path) -> None:
    folder = training(tmp_path / "run", 3)
    run = opened(folder)
    before = run.up_to_date(60.0)
    add_metrics(folder, 4, {"reward/mean": 0.9})
    after = run.up_to_date(60.0)
    assert before.revision != after.revision
    assert overview_of(run, after).progress.status.endswith("step 4 of 3")


def test_troubles_lead_to_the_chains_that_show_them(tmp_path: Path) -> None:
    folder = training(tmp_path / "run", 4)
    add_chains(folder / FILE_NAME, {"broken": [[None, None]]}, 4, stop=StopReason.ERROR)
    add_metrics(folder, 4, {"actor/grad_norm": float("nan"), "chains/lost_share": 0.3, "chains/lost/tools": 2.0})
    add_metrics(folder, 3, {"audit/alarm": 1.0, "reward/group/zero_variance": 0.9, "reward/group/all_worst": 0.9})
    (folder / "logs").mkdir()
    (folder / "logs" / "1.log").write_text("agentfly notice: step 4: parse_failures is 0.5, above 0.3 for 3 steps; x\n")
    (folder / FILE_NAME).open("a").write("not JSON\n")
    found = {trouble.words: trouble for trouble in overview(folder).troubles}
    chains = next(trouble for words, trouble in found.items() if words.startswith("step 4: parse_failures"))
    assert (chains.chains.alarm, chains.chains.step) == ("malformed", 4)  # type: ignore[union-attr]
    assert found["a fault ended the chain"].count == "2 of 46 chains"
    assert any(words.startswith("actor/grad_norm was not a number at step 4") for words in found)
    assert any("because of tools: at worst 30%" in words for words in found)
    assert any("teach nothing" in words and "too hard" in words for words in found)
    assert any("fooling its judge" in words for words in found)
    assert found["lines of the trajectories are damaged and left out"].count == "1 line"
    levels = [trouble.level for trouble in overview(folder).troubles]
    assert levels == sorted(levels, key=("bad", "mid", "note").index)


def quickstart(folder: Path) -> Path:
    training(folder / "training", 2)
    (folder / "quickstart.json").write_text('{"algorithm": "grpo"}')
    for label, gain in (("warm_start", 0), ("trained", 50)):
        scores: dict[str, list[list[float | None]]] = {
            "named": [[20 + gain], [30 + gain], [25 + gain]],
            "look": [[10 + gain / 2], [90], [40 + gain / 2]],
        }
        add_chains(folder / "evaluation" / label / "greedy.jsonl", scores, validate=None)
    return folder


def test_a_quickstart_compares_before_and_after_from_its_chains(tmp_path: Path) -> None:
    found = overview(quickstart(tmp_path / "run"))
    assert found.sentences[0].words.startswith("The held-out score rose by 33.3 ± 21.4: 35.8 for the warm start, ")
    table = found.tables[0]
    assert (table.title, table.before, table.after) == ("Before and after, greedy", "warm start", "trained")
    named = next(row for row in table.rows if row.name == "named")
    assert named.gain == ("+50.0 ± 0.0", "good")
    assert found.examples[0].about.startswith("lowest scores of the trained policy")
    assert named.chains.part == found.examples[0].rows[0].part


def test_a_finished_quickstart_has_the_numbers_of_its_report(tmp_path: Path) -> None:
    folder = quickstart(tmp_path / "run")

    def estimate(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - 4, "high": mean + 4}

    passes = {
        label: {
            "greedy": {
                "tasks": 600,
                "tasks_by_family": {"look": 100},
                "score": estimate(mean),
                "score_by_family": {"look": estimate(mean)},
                "success": {"all": estimate(mean / 100), "look": estimate(mean / 100)},
            }
        }
        for label, mean in (("warm_start", 30.0), ("trained", 70.0))
    }
    gain = {"greedy": {"all": estimate(40.0), "look": estimate(-9.0)}}
    blanked = {"trained": {"look": estimate(0.17)}, "chance": 0.167}
    (folder / "summary.json").write_text(json.dumps({**passes, "gain": gain, "blanked": blanked, "minutes": 9.5}))
    found = overview(folder)
    assert found.sentences[0].words == (
        "The held-out score rose: 30 for the warm start, 70 for the trained policy (+40.0 ± 4.0)."
    )
    gains = [(row.name, row.gain) for row in found.tables[0].rows]
    assert gains == [("", ("+40.0 ± 4.0", "good")), ("look", ("-9.0 ± 4.0", "bad"))]
    blind = next(table for table in found.tables if table.title == "Does it look?")
    assert "guessing gets 17%" in blind.about
    assert (blind.rows[0].before.text, blind.rows[0].after.text) == ("70 %", "17 %")  # type: ignore[union-attr]
    assert found.progress.status == "finished, step 2 of 2"
    assert ("9.5", "minutes") in found.tiles


def test_chains_of_an_agent_without_scores_show_the_newest(tmp_path: Path) -> None:
    add_chains(tmp_path / FILE_NAME, {"named": [[None], [None]]}, validate=None, images=True)
    found = overview(tmp_path)
    assert found.sentences == ()
    assert found.examples[0].title == "The newest chains"
    assert [row.name for row in found.tools] == ["erase"]
    assert found.troubles == ()


def test_means_over_prompts_have_intervals(tmp_path: Path) -> None:
    run = opened(training(tmp_path / "run", 4))
    found = by_step(run.index, validate=False, column="reward")
    assert list(found) == [1, 2, 3, 4]
    assert found[4].count == 4
    assert found[4].low < found[4].mean < found[4].high
    none = paired(run.index, ("step = ?", 99), ("step = ?", 1))
    assert none == {}


def test_the_interval_of_one_sample_is_not_known() -> None:
    one = Mean.of(1, 5.0, 25.0)
    assert one is not None
    assert not one.bounded
    assert one.verdict == "did not clearly change"
    assert Mean.of(0, 0.0, 0.0) is None


@pytest.mark.parametrize(
    ("count", "errors"), [(2, 12.706), (3, 4.303), (11, 2.228), (12, 2.201), (31, 2.042), (1001, 1.962)]
)
def test_an_interval_of_few_samples_is_wide(count: int, errors: float) -> None:
    """Two tasks that both got better by chance are no claim: the reach is Student's, not the normal one."""
    mean = Mean.of(count, 0.0, count - 1.0)  # of samples with the standard deviation 1
    assert mean is not None
    assert mean.high * count**0.5 == pytest.approx(errors, abs=0.003)


@pytest.mark.parametrize(
    ("count", "ends"),
    [(0, None), (1, None), (2, ((1, 1), (2, 2))), (8, ((1, 2), (7, 8))), (500, ((1, 10), (491, 500)))],
)
def test_the_compared_steps_are_the_ends_of_a_run(count: int, ends: object) -> None:
    assert window(range(1, count + 1)) == ends


def test_cells_sum_up_all_chains(tmp_path: Path) -> None:
    run = opened(training(tmp_path / "run", 2))
    cells = Cells.read(run.index)
    assert cells.sums.chains == 28
    assert cells.trained.sums.chains == 16
    assert cells.validated.steps == [0, 2]
    assert cells.sums.tokens == 280
    assert cells.of_type("look").sums.success == 0


@pytest.mark.parametrize(
    "summary", [{}, {"all": 3, "by_type": [1]}, {"evaluators": "x"}, {"evaluators": [1], "all": {"scores": {"1": 5}}}]
)
def test_a_summary_of_another_form_gives_nothing(summary: dict[str, object]) -> None:
    assert all(row.after is None for row in summary_rows(summary))
    assert evaluators_of(summary) == []
    assert quickstart_rows(summary, "greedy") == []


def test_a_bar_stays_on_its_track() -> None:
    found = bar(98.0, 90.0, 130.0)
    assert found is not None
    assert found.start + found.width == 100
    assert bar(float("nan"), 0, 0) is None


def test_a_trial_says_what_it_breaks_and_lost() -> None:
    found = troubles_of_trial(
        {
            "metrics": {"health/parse_failures": 0.4},
            "breaches": [{"metric": "parse_failures", "words": "above 0.3"}, 7],
            "lost": [{"reason": "tools", "message": "no server"}] * 2,
            "unfit": "half of the chains are lost",
        }
    )
    assert [trouble.words for trouble in found] == [
        "training would not learn from this: half of the chains are lost",
        "parse failures is 0.4, above 0.3",
        "tools: no server",
    ]
    assert found[2].count == "2 chains"
