"""Where a step's time went: the shares of the tools add up to what the policy waited."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly.training.metrics.chain_report import Interval
from agentfly.training.metrics.tool_stalls import stall_in_words, wait_metrics


def test_a_tool_beside_a_generation_costs_nothing() -> None:
    # From 1 to 2 one chain generates while the other one waits; from 2 to 4 both wait.
    metrics = wait_metrics(
        [
            Interval("", 10, 12),
            Interval("", 10, 11),
            Interval("edit", 11, 14),
            Interval("detect", 12, 14),
            Interval("", 14, 15),
        ]
    )
    assert metrics["wait/policy_idle"] == pytest.approx(2 / 5)
    assert metrics["wait/because/edit"] == pytest.approx(1 / 5)
    assert metrics["wait/because/detect"] == pytest.approx(1 / 5)
    assert (metrics["wait/seconds/edit"], metrics["wait/seconds/detect"]) == (3, 2)
    assert metrics["wait/calls/edit"] == 1


def test_a_moment_is_shared_by_the_calls_that_run_in_it() -> None:
    # Two edits and one detection wait together for 3 s, then the detection alone for 1 s.
    metrics = wait_metrics(
        [Interval("edit", 1, 4), Interval("edit", 1, 4), Interval("detect", 1, 5), Interval("", 5, 6)]
    )
    assert metrics["wait/policy_idle"] == pytest.approx(4 / 5)
    assert metrics["wait/because/edit"] == pytest.approx(2 / 5)
    assert metrics["wait/because/detect"] == pytest.approx(2 / 5)
    assert metrics["wait/calls/edit"] == 2


def test_time_in_which_nothing_runs_is_nobodys_fault() -> None:
    metrics = wait_metrics([Interval("", 1, 2), Interval("edit", 4, 5), Interval("", 8, 9)])
    assert metrics["wait/policy_idle"] == pytest.approx(1 / 8)


def test_calls_without_duration_and_without_a_clock() -> None:
    assert wait_metrics([Interval("edit", 3, 3)])["wait/policy_idle"] == 0.0
    # A record of a log that is older than the clock has 0.
    assert wait_metrics([Interval("edit", 0.0, 0.0)]) == {}
    assert wait_metrics([]) == {}


SPAN = st.tuples(st.sampled_from(["", "edit", "detect", "inpaint"]), st.integers(1, 50), st.integers(0, 20))


@given(st.lists(SPAN, min_size=1, max_size=12))
def test_shares_add_up(spans: list[tuple[str, int, int]]) -> None:
    intervals = [Interval(tool, start, start + length) for tool, start, length in spans]
    metrics = wait_metrics(intervals)
    shares = [value for name, value in metrics.items() if name.startswith("wait/because/")]
    assert sum(shares) == pytest.approx(metrics["wait/policy_idle"])
    assert all(share >= 0 for share in shares)
    # Counted second by second.
    first, last = min(i.start for i in intervals), max(i.end for i in intervals)
    seconds = [
        any(i.tool and i.start <= s < i.end for i in intervals)
        and not any(not i.tool and i.start <= s < i.end for i in intervals)
        for s in range(int(first), int(last))
    ]
    assert metrics["wait/policy_idle"] == pytest.approx(sum(seconds) / len(seconds) if seconds else 0.0)


def test_words_name_the_worst_tool() -> None:
    metrics = {"wait/policy_idle": 0.41, "wait/because/qwen_edit_image": 0.3, "wait/because/detect_objects": 0.11}
    assert stall_in_words(metrics) == "policy idle 41% because of qwen_edit_image"
    assert stall_in_words({**metrics, "wait/policy_idle": 0.04}) is None
    assert stall_in_words({"wait/policy_idle": 0.5}) is None
    assert stall_in_words({}) is None
