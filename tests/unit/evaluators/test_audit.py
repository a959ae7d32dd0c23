"""The audit: a second opinion on a sample of each batch, and an alarm when the two part ways."""

from __future__ import annotations

import logging

import pytest
from PIL import Image

from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators import AuditReport, AuditSettings, EditSample, JudgeAudit, Score

PICTURE = Image.new("RGB", (4, 4))


class Told:
    """Scores a sample by its instruction."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def evaluate(self, sample: EditSample) -> Score:
        self.seen.append(sample.instruction)
        if sample.instruction == "none":
            raise EvaluatorError("no")
        return Score(float(sample.instruction))


def batch(*values: float | str) -> list[EditSample]:
    return [EditSample(str(value), PICTURE, PICTURE) for value in values]


async def test_a_share_of_each_batch_is_audited_and_the_same_one_if_asked_again() -> None:
    told = Told()
    audit = JudgeAudit(told, AuditSettings(share=0.25, least=2))
    report = await audit.observe(batch(*range(40)), [0.5] * 40, step=3)
    assert report.metrics["audit/samples"] == 10 == len(told.seen)
    assert sorted(map(int, told.seen)) == audit.choose(40, 3)
    assert audit.choose(40, 3) != audit.choose(40, 4)
    assert len(audit.choose(4, 0)) == 2
    assert len(audit.choose(1, 0)) == 1


async def test_gap_and_correlations_are_those_of_the_audited_samples() -> None:
    audit = JudgeAudit(Told(), AuditSettings(share=1))
    metrics = (await audit.observe(batch(10, 20, 90), [0.3, 0.4, 0.5], step=0)).metrics
    assert metrics["audit/mean"] == pytest.approx(0.4)
    assert metrics["audit/gap"] == pytest.approx(0.0)
    assert metrics["audit/rank_correlation"] == pytest.approx(1.0)
    assert 0.9 < metrics["audit/correlation"] < 1.0
    turned = (await audit.observe(batch(90, 20, 10), [0.3, 0.4, 0.5], step=1)).metrics
    assert turned["audit/rank_correlation"] == pytest.approx(-1.0)


async def test_ties_share_their_rank() -> None:
    metrics = (
        await JudgeAudit(Told(), AuditSettings(share=1)).observe(batch(1, 2, 2, 3), [0.1, 0.2, 0.2, 0.3], 0)
    ).metrics
    assert metrics["audit/rank_correlation"] == pytest.approx(1.0)


async def test_what_is_not_scored_is_counted_and_nothing_is_made_up_for_it() -> None:
    audit = JudgeAudit(Told(), AuditSettings(share=1))
    metrics = (await audit.observe(batch(50, "none", 70, 70), [0.5, 0.9, 0.7, 0.7], step=0)).metrics
    assert (metrics["audit/samples"], metrics["audit/not_scored"]) == (4, 1)
    assert metrics["audit/gap"] == pytest.approx(0.0)
    nothing = await audit.observe(batch("none", "none"), [0.5, 0.5], step=1)
    assert nothing.metrics == {"audit/samples": 2.0, "audit/not_scored": 2.0}
    constant = await audit.observe(batch(50, 50, 50), [0.1, 0.2, 0.3], step=2)
    assert "audit/correlation" not in constant.metrics


async def follow(rewards: list[float], audits: list[float], **settings: float) -> list[AuditReport]:
    audit = JudgeAudit(Told(), AuditSettings(share=1, window=6, **settings))
    return [
        await audit.observe(batch(100 * value, 100 * value), [reward] * 2, step)
        for step, (reward, value) in enumerate(zip(rewards, audits, strict=True))
    ]


RISING = [0.3, 0.35, 0.4, 0.45, 0.5, 0.55]


async def test_an_alarm_when_the_reward_rises_and_the_audit_falls(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="agentfly"):
        reports = await follow(RISING, RISING[::-1])
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
async def test_no_alarm_otherwise(rewards: list[float], audits: list[float]) -> None:
    assert all(report.alarm is None for report in await follow(rewards, audits))


async def test_the_judge_of_the_reward_does_not_audit_itself() -> None:
    told = Told()
    with pytest.raises(ConfigError, match="another"):
        JudgeAudit(told, reward_evaluator=told)
    with pytest.raises(ConfigError, match="one each"):
        await JudgeAudit(told).observe(batch(1, 2), [0.1], 0)
