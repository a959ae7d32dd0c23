"""The audit: a second opinion on a sample of each batch, and an alarm when the two part ways."""

from __future__ import annotations

import logging
import math

import pytest

from agentfly.training.metrics import AuditReport, AuditSettings, JudgeAudit


def test_a_share_of_the_chains_is_audited_and_the_same_ones_if_asked_again() -> None:
    settings = AuditSettings(share=0.25)
    chains = [f"step-3-row-{row}-0" for row in range(400)]
    chosen = [chain for chain in chains if settings.chooses(chain, 3)]
    assert 70 < len(chosen) < 130
    assert chosen == [chain for chain in chains if settings.chooses(chain, 3)]
    assert chosen != [chain for chain in chains if settings.chooses(chain, 4)]


def test_gap_and_correlations_are_those_of_the_audited_chains() -> None:
    audit = JudgeAudit()
    metrics = audit.compare([(0.3, 10), (0.4, 20), (0.5, 90), (1.0, None)], 0).metrics
    assert metrics["audit/samples"] == 3
    assert metrics["audit/mean"] == pytest.approx(0.4)
    assert metrics["audit/gap"] == pytest.approx(0.0)
    assert metrics["audit/rank_correlation"] == pytest.approx(1.0)
    assert 0.9 < metrics["audit/correlation"] < 1.0
    turned = audit.compare([(0.3, 90), (0.4, 20), (0.5, 10)], 1).metrics
    assert turned["audit/rank_correlation"] == pytest.approx(-1.0)


def test_ties_share_their_rank() -> None:
    metrics = JudgeAudit().compare([(0.1, 1), (0.2, 2), (0.2, 2), (0.3, 3)], 0).metrics
    assert metrics["audit/rank_correlation"] == pytest.approx(1.0)


def test_what_is_not_scored_is_counted_and_nothing_is_made_up_for_it() -> None:
    audit = JudgeAudit()
    metrics = audit.compare([(0.5, 50), (0.9, math.nan), (0.7, 70), (0.7, 70)], 0).metrics
    assert (metrics["audit/samples"], metrics["audit/not_scored"]) == (4, 1)
    assert metrics["audit/gap"] == pytest.approx(0.0)
    nothing = audit.compare([(0.5, math.nan), (0.5, math.nan)], 1)
    assert nothing.metrics == {"audit/samples": 2.0, "audit/not_scored": 2.0}
    constant = audit.compare([(0.1, 50), (0.2, 50), (0.3, 50)], 2)
    assert "audit/correlation" not in constant.metrics


def follow(rewards: list[float], audits: list[float]) -> list[AuditReport]:
    audit = JudgeAudit(AuditSettings(share=1, window=6))
    steps = enumerate(zip(rewards, audits, strict=True))
    return [audit.compare([(reward, 100 * value)] * 2, step) for step, (reward, value) in steps]


RISING = [0.3, 0.35, 0.4, 0.45, 0.5, 0.55]


def test_an_alarm_when_the_reward_rises_and_the_audit_falls(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="agentfly"):
        reports = follow(RISING, RISING[::-1])
    assert [report.alarm is not None for report in reports] == [False] * 5 + [True]
    assert "fooling its judge" in str(reports[-1].alarm)
    assert reports[-1].metrics["audit/reward_trend"] == pytest.approx(0.15)
    assert reports[-1].metrics["audit/audit_trend"] == pytest.approx(-0.15)
    assert "step 5" in caplog.text


@pytest.mark.parametrize(
    ("rewards", "audits"),
    [(RISING, RISING), (RISING[::-1], RISING[::-1]), (RISING, [0.5] * 6), ([0.5] * 6, RISING[::-1])],
    ids=["both rise", "both fall", "audit flat", "reward flat"],
)
def test_no_alarm_otherwise(rewards: list[float], audits: list[float]) -> None:
    assert all(report.alarm is None for report in follow(rewards, audits))
