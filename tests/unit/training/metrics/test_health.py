"""Health of a run: what each number counts, and breaches that warn or stop."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentfly.agents import ToolRecord
from agentfly.errors import ConfigError, TrainingError
from agentfly.training.metrics import ChainFacts, HealthMonitor, HealthSettings, Limit, chain_facts, health_settings

CHAIN = ChainFacts(calls=2, malformed=0, edits=1, no_op_edits=0, longest_repeat=1, answered=True, coverage=(0.1,))


def monitor(**limits: Limit) -> HealthMonitor:
    return HealthMonitor(HealthSettings(limits=limits))


def test_facts_are_read_from_the_records_of_a_chain() -> None:
    call = ToolRecord("detect_objects", {"image_id": "img_1", "prompt": "cat"}, 0.1, looks=True)
    records = [
        call,
        replace(call, arguments={"prompt": "cat", "image_id": "img_1"}, error="none found"),
        replace(call, arguments={"prompt": "dog", "image_id": "img_1"}),
        ToolRecord("", {}, 0.0, error="no JSON", malformed=True),
        ToolRecord("", {}, 0.0, error="no JSON", malformed=True),
        ToolRecord("", {}, 0.0, error="no JSON", malformed=True),
    ]
    facts = chain_facts(records, answered=True, edits=1, no_op_edits=1, coverage=[0.25])
    assert facts == ChainFacts(6, 3, 1, 1, 2, True, (0.25,), looks=3)
    assert chain_facts([], answered=False, edits=0, no_op_edits=0).longest_repeat == 0


def test_each_metric_counts_what_it_says() -> None:
    chains = [
        CHAIN,
        ChainFacts(calls=6, malformed=2, edits=3, no_op_edits=3, longest_repeat=4, answered=True, coverage=(0.9, 0.5)),
        ChainFacts(calls=0, malformed=0, edits=0, no_op_edits=0, longest_repeat=0, answered=False),
        ChainFacts(calls=0, malformed=0, edits=0, no_op_edits=0, longest_repeat=0, answered=True, looks=3),
    ]
    assert monitor().observe(chains, 0).metrics == pytest.approx(
        {
            "health/tool_calls": 2.0,
            "health/look_calls": 3 / 4,
            "health/no_op_edits": 3 / 4,
            "health/repeat_loops": 1 / 4,
            "health/parse_failures": 2 / 8,
            "health/answer_without_edit": 2 / 3,
            "health/mask_coverage": 0.5,
        }
    )


def test_a_batch_without_the_facts_has_no_metric() -> None:
    idle = ChainFacts(calls=0, malformed=0, edits=0, no_op_edits=0, longest_repeat=0, answered=False)
    nothing = dict.fromkeys(("health/tool_calls", "health/look_calls", "health/repeat_loops"), 0.0)
    assert monitor().observe([idle], 0).metrics == nothing
    assert monitor().observe([], 0).metrics == {}


def test_a_breach_warns_once_it_lasts() -> None:
    watched = monitor(tool_calls=Limit(low=1.0, patience=3))
    idle = replace(CHAIN, calls=0)
    lasting = [watched.observe([idle], step).warnings for step in range(3)]
    assert [len(warnings) for warnings in lasting] == [0, 0, 1]
    assert "tool_calls is 0, below 1 for 3 steps" in lasting[2][0]
    assert watched.observe([CHAIN], 3).warnings == ()
    assert watched.observe([idle], 4).warnings == ()


def test_a_breach_stops_the_run_with_its_reason() -> None:
    watched = monitor(mask_coverage=Limit(high=0.8, action="stop", patience=1))
    watched.observe([CHAIN], 0).raise_if_stopped()
    report = watched.observe([replace(CHAIN, coverage=(0.95,))], 1)
    with pytest.raises(TrainingError, match=r"step 1: mask_coverage is 0\.95, above 0\.8"):
        report.raise_if_stopped()


def test_a_healthy_batch_breaches_none_of_the_defaults() -> None:
    watched = HealthMonitor()
    assert all(not watched.observe([CHAIN] * 8, step).warnings for step in range(5))


def test_limits_come_from_plain_configuration() -> None:
    chosen = health_settings({"tool_calls": {"low": 2, "action": "stop"}, "mask_coverage": None})
    assert chosen.limits["tool_calls"] == Limit(low=2, action="stop")
    assert "mask_coverage" not in chosen.limits
    assert chosen.limits["parse_failures"] == HealthSettings().limits["parse_failures"]
    with pytest.raises(ConfigError, match="Did you mean 'tool_calls'"):
        health_settings({"tool_cals": {"low": 1}})
    with pytest.raises(ConfigError, match="low, high"):
        health_settings({"tool_calls": {}})
    with pytest.raises(ConfigError, match="Did you mean"):
        HealthSettings(limits={"tool_cals": Limit(low=1)})
