"""The table: what was not scored is counted and never a number; empty is empty, not NaN."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agentfly.agents import StopReason
from agentfly.evaluation.report.markdown import plain, run_page, table
from agentfly.evaluation.report.pages import worst_first
from agentfly.evaluation.report.repeats import Interval
from agentfly.evaluation.report.summary import About, summarise
from agentfly.evaluation.task_record import without_hollow_scores
from agentfly.evaluators.judge.settings import JudgeUsage
from tests.unit.evaluation.agents import record

ABOUT: About = {"agent": "a", "data": "d", "model": "m", "split": None}


def mean_of(found: Interval | None) -> float:
    assert found is not None
    return found["mean"]


def test_means_are_over_scored_tasks_and_say_how_many() -> None:
    records = [record("a", 90.0), record("b", None), record("c", 50.0), record("d", None, task_type="none")]
    summary = summarise(records, ["judge"], ABOUT)
    scores = summary["all"]["scores"]["judge"]
    assert mean_of(scores["score"]) == 70.0
    assert (scores["scored"], scores["not_scored"]) == (2, 2)
    assert scores["reasons"] == {"the judge refused": 2}
    assert mean_of(summary["all"]["success"]) == 0.5
    assert summary["by_type"]["none"]["scores"]["judge"]["score"] is None
    assert summary["by_type"]["none"]["success"] is None
    assert "NaN" not in json.dumps(summary)


def test_work_is_counted() -> None:
    records = [record(f"t{n}", 1.0, seconds=float(n)) for n in range(1, 101)]
    records.append(record("x", 1.0, stop_reason=StopReason.BACKEND_ERROR, seconds=1.0))
    figures = summarise(records, ["judge"], ABOUT)["all"]
    assert (figures["tasks"], figures["failed"]) == (101, 1)
    seconds = figures["seconds"]
    assert seconds is not None
    assert (seconds["p50"], seconds["p95"]) == (50.0, 95.0)
    assert figures["tokens"] == {"prompt": 707, "completion": 303}
    assert figures["tools"] == {"edit": 101}
    assert figures["stop_reasons"] == {"answered": 100, "backend_error": 1}


def test_calls_that_only_look_are_counted_apart() -> None:
    one = record("a", 1.0)
    turn = one.trajectory.turns[0]
    looks = (replace(turn.tools[0], looks=True), replace(turn.tools[0], looks=True), *turn.tools)
    one.trajectory.turns[0] = replace(turn, tools=looks)
    summary = summarise([one, record("b", 1.0)], ["judge"], ABOUT)
    figures = summary["all"]
    assert (figures["tool_calls"], figures["look_calls"]) == (2.0, 1.0)
    assert "| edit | 1.00 | 2.00 | 1.00 | 0.00 |" in run_page(summary)


@pytest.mark.parametrize(("cost", "shown"), [(0.0, None), (0.5, 1.0)])
def test_what_judging_cost_is_a_sum_and_unknown_without_prices(cost: float, shown: float | None) -> None:
    usage = JudgeUsage(samples=1, requests=2, prompt_tokens=10, cost=cost)
    records = [replace(record(id_, 1.0), judges={"judge": usage}) for id_ in ("a", "b")]
    judged = summarise(records, ["judge"], ABOUT)["all"]["judge"]["judge"]
    assert (judged["requests"], judged["prompt_tokens"], judged["cost"]) == (4, 20, shown)


def test_the_page_has_a_row_a_type_and_hostile_text_cannot_break_it() -> None:
    records = [record("a", 90.0, task_type="x | y\nz"), record("b", None)]
    page = run_page(summarise(records, ["judge"], ABOUT))
    rows = [line for line in page.splitlines() if line.startswith("| x")]
    assert rows[0].startswith("| x \\| y z | 1 | 0 | 90.0 [90.0, 90.0] | 100.0")
    assert "1 × the judge refused" in page
    assert "| edit | 1 | – | 0.0" not in page


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[click](http://x)", "[click\\](http://x)"),
        ("![a][b]", "![a\\][b]"),
        ("<script>x</script><!-- <http://x>", "&lt;script>x&lt;/script>&lt;!-- &lt;http://x>"),
        ("a | b \\| c \\", "a \\| b \\\\\\| c \\"),
        ("&lt;b&gt; &#60;", "&amp;lt;b&amp;gt; &amp;#60;"),
        ("\x1b[31m\u202e", "\ufffd[31m\ufffd"),
        # Ordinary figures and words stay as they are.
        ("90.0 [89.1, 91.0]", "90.0 [89.1, 91.0]"),
        ("p < 0.05 & R&D; **all** color_change C:\\new f(x) a > b", None),
    ],
)
def test_foreign_text_in_a_page_is_shown_and_is_no_markdown(text: str, shown: str | None) -> None:
    expected = shown or text.replace("R&D;", "R&amp;D;")
    assert plain(text) == expected
    assert table(["a", "b"], [[text, "1"]]).splitlines()[2] == f"| {expected} | 1 |"
    about = {**ABOUT, "agent": text}
    assert run_page(summarise([record("a", 1.0)], ["judge"], about)).startswith(f"# {expected} on ")  # type: ignore[arg-type]


def test_the_gallery_begins_with_what_was_not_scored_then_the_worst() -> None:
    records = [record("good", 90.0), record("none", None), record("bad", 5.0)]
    assert [one.id for one in worst_first(records, "judge")] == ["none", "bad", "good"]


def test_zeros_that_no_judge_has_looked_at_are_no_scores() -> None:
    """A judge gives an unchanged image its 0 without a request; a mean of such zeros alone would be a lie."""
    asked = replace(record("a", None), judges={"judge": JudgeUsage(samples=1, requests=2, failed=2)})
    unchanged = replace(record("b", 0.0), judges={"judge": JudgeUsage(samples=1)})
    found = summarise(without_hollow_scores([asked, unchanged]), ["judge"], ABOUT)["all"]["scores"]["judge"]
    assert (found["score"], found["scored"], found["not_scored"]) == (None, 0, 2)
    assert any("answered no request of this run" in reason for reason in found["reasons"])
    # One answer is enough: then the judge was there, and the 0 is what it would have said.
    answered = replace(record("c", 50.0), judges={"judge": JudgeUsage(samples=1, requests=2, failed=1)})
    for records in ([asked, unchanged, answered], [unchanged]):
        assert without_hollow_scores(records) == records
