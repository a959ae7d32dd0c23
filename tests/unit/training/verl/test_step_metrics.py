"""Each step is judged from the reports of its chains, and a run that cannot be saved stops with the reason."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentfly.errors import ConfigError, TrainingError
from agentfly.training.metrics.chain_report import Interval
from agentfly.training.metrics.health import ChainFacts
from agentfly.training.recipe.settings import AuditNode, DataSettings, TrainSettings
from agentfly.training.verl.messages import CacheCounts, ChainReport
from agentfly.training.verl.step_metrics import CacheMeter, StepObserver

FACTS = ChainFacts(calls=2, malformed=0, edits=1, no_op_edits=0, longest_repeat=1, answered=True, coverage=(0.1,))


def chain(
    edit: float = 0.5,
    group: str = "a",
    audit: float | None = None,
    intervals: Sequence[Interval] = (),
    **facts: Any,
) -> ChainReport:
    """Return the report of a chain whose reward is its edit less 0.1 of format."""
    return ChainReport(
        id=f"{group}-0",
        group=group,
        reward=edit - 0.1,
        parts={"edit": edit, "format": -0.1},
        audit=audit,
        facts=replace(FACTS, **facts),
        intervals=intervals,
        stop="answered",
        digest="0",
        row=0,
    )


def observer(past: Sequence[Mapping[str, float]] = (), **settings: Any) -> StepObserver:
    data = DataSettings(train="stickers")
    return StepObserver(TrainSettings(model="m", out=Path("o"), data=data, **settings), past)


def test_a_step_without_chains_ends_the_run() -> None:
    with pytest.raises(TrainingError, match="no chain of step 3 was sampled and scored"):
        observer().observe([], 3)


def test_rewards_are_given_by_part_and_by_group() -> None:
    metrics = observer().observe([chain(0.2, "a"), chain(0.6, "a"), chain(0.4, "b"), chain(0.4, "b")], 1)
    assert metrics["reward/mean"] == pytest.approx(0.3)
    assert metrics["reward/part/edit"] == pytest.approx(0.4)
    assert metrics["reward/part/format"] == pytest.approx(-0.1)
    assert metrics["reward/group/count"] == 2
    assert metrics["chains/stop/answered"] == 4
    assert metrics["reward/group/zero_variance"] == 0.5
    assert metrics["reward/group/std_within"] == pytest.approx(0.1)
    assert metrics["health/tool_calls"] == 2
    assert metrics["health/mask_coverage"] == pytest.approx(0.1)
    assert not any(name.startswith("audit/") for name in metrics)


def test_waiting_is_given_in_metrics_and_in_words(caplog: pytest.LogCaptureFixture) -> None:
    intervals = [
        Interval("", 1.0, 2.0),
        Interval("qwen_edit_image", 2.0, 5.0),
    ]
    with caplog.at_level(logging.INFO, "agentfly"):
        metrics = observer().observe([chain(intervals=intervals)], 7)
    assert metrics["wait/policy_idle"] == pytest.approx(0.75)
    assert "step 7: policy idle 75% because of qwen_edit_image" in caplog.text


def test_health_stops_a_run_when_a_breach_lasts() -> None:
    watch = observer(health={"tool_calls": {"low": 1, "action": "stop", "patience": 2}})
    watch.observe([chain(calls=0)], 1)
    watch.observe([chain(calls=1)], 2)  # a good step begins the count again
    watch.observe([chain(calls=0)], 3)
    with pytest.raises(TrainingError, match=r"stopped the run at step 4: tool_calls is 0, below 1 for 2 steps"):
        watch.observe([chain(calls=0)], 4)


def test_health_warns_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    watch = observer(health={"no_op_edits": {"high": 0.5, "patience": 1}})
    assert watch.observe([chain(no_op_edits=1)], 1)["health/no_op_edits"] == 1.0
    assert "no_op_edits is 1, above 0.5" in caplog.text


def test_unknown_health_metrics_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'tool_calls'"):
        observer(health={"tool_call": {"low": 1}})


def test_an_alarm_when_the_reward_rises_and_the_audit_falls() -> None:
    settings = {"share": 1.0, "window": 4, "rise": 0.1, "fall": 0.1}
    watch = observer(audit=AuditNode(evaluator="structural", settings=settings))
    for step, (edit, audit) in enumerate([(0.2, 80.0), (0.3, 80.0), (0.6, 40.0)], 1):
        metrics = watch.observe([chain(edit, audit=audit), chain(edit)], step)
        assert metrics["audit/alarm"] == 0.0
    metrics = watch.observe([chain(0.7, audit=40.0), chain(0.7)], 4)
    assert metrics["audit/alarm"] == 1.0
    assert metrics["audit/samples"] == 1
    assert metrics["audit/gap"] == pytest.approx(0.3)
    assert metrics["audit/reward_trend"] == pytest.approx(0.4)
    assert metrics["audit/audit_trend"] == pytest.approx(-0.4)


def test_what_lasts_over_steps_goes_on_lasting_in_a_resumed_run() -> None:
    settings = {"share": 1.0, "window": 4, "rise": 0.1, "fall": 0.1}
    nodes: dict[str, Any] = {
        "audit": AuditNode(evaluator="structural", settings=settings),
        "health": {"tool_calls": {"low": 1, "action": "stop", "patience": 3}},
    }
    killed = observer(**nodes)
    past = [
        killed.observe([chain(edit, audit=audit, calls=calls)], step)
        for step, (edit, audit, calls) in enumerate([(0.2, 80.0, 2), (0.3, 80.0, 0), (0.6, 40.0, 0)], 1)
    ]
    assert observer(past, **nodes).observe([chain(0.7, audit=40.0)], 4)["audit/alarm"] == 1.0
    with pytest.raises(TrainingError, match=r"stopped the run at step 4: tool_calls is 0, below 1 for 3 steps"):
        observer(past, **nodes).observe([chain(calls=0)], 4)
    assert observer(**nodes).observe([chain(0.7, audit=40.0, calls=0)], 4)["audit/alarm"] == 0.0


def test_an_audit_that_could_not_score_is_counted_and_not_averaged() -> None:
    watch = observer(audit=AuditNode(evaluator="structural"))
    metrics = watch.observe([chain(0.5, audit=math.nan), chain(0.5, audit=60.0), chain(0.5)], 1)
    assert (metrics["audit/samples"], metrics["audit/not_scored"]) == (2, 1)
    assert metrics["audit/mean"] == pytest.approx(0.6)


def test_the_cache_is_metered_step_by_step_over_all_workers() -> None:
    meter = CacheMeter()
    first = meter.read([CacheCounts(1, hits=1, misses=4), CacheCounts(1, hits=3, misses=5)])
    assert first == {"cache/hits": 3.0, "cache/misses": 5.0, "cache/hit_rate": 3 / 8}
    second = meter.read([CacheCounts(1, hits=5, misses=5), CacheCounts(2, hits=0, misses=2)])
    assert second == {"cache/hits": 2.0, "cache/misses": 2.0, "cache/hit_rate": 0.5}
    assert meter.read([CacheCounts(2, hits=0, misses=2)]) == {}


def test_rankings_are_counted_and_a_falling_audit_is_an_alarm_in_a_resumed_run_too() -> None:
    settings = {"share": 1.0, "window": 4, "fall": 0.1}
    judge = {"evaluator": "listwise", "model": "m"}
    nodes: dict[str, Any] = {"evaluator": judge, "audit": AuditNode(evaluator="structural", settings=settings)}
    ranked = [replace(chain(edit), relative=True, agreement=0.5 + edit / 2) for edit in (0.0, 1.0)]
    metrics = observer(**nodes).observe([*ranked, chain(0.5), chain(0.5)], 1)
    assert (metrics["reward/group/ranked"], metrics["reward/group/agreement"]) == (0.5, 0.75)
    # The mean of the ranks never rises, and is no measure of the audit's.
    killed = observer(**nodes)
    past = [killed.observe([chain(0.5, audit=audit)], step) for step, audit in enumerate((80.0, 80.0, 60.0), 1)]
    assert "audit/gap" not in past[0]
    assert [metrics["audit/alarm"] for metrics in past] == [0.0] * 3
    assert observer(past, **nodes).observe([chain(0.5, audit=60.0)], 4)["audit/alarm"] == 1.0
    assert observer(past, **nodes).observe([chain(0.5, audit=95.0)], 4)["audit/alarm"] == 0.0
    assert observer(past[1:], **nodes).observe([chain(0.5, audit=60.0)], 4)["audit/alarm"] == 0.0
