"""The metrics of a training step: rewards, credit, health, the audit of the judge, and tool stalls."""

from agentfly.training.metrics.health import (
    ChainFacts,
    HealthMonitor,
    HealthReport,
    HealthSettings,
    Limit,
    chain_facts,
    health_settings,
)
from agentfly.training.metrics.judge_audit import AuditReport, AuditSettings, JudgeAudit
from agentfly.training.metrics.reward_groups import GroupStatistics, group_statistics, reward_metrics
from agentfly.training.metrics.turn_credit import TurnCredit, credit_turns, score_turns

__all__ = [
    "AuditReport",
    "AuditSettings",
    "ChainFacts",
    "GroupStatistics",
    "HealthMonitor",
    "HealthReport",
    "HealthSettings",
    "JudgeAudit",
    "Limit",
    "TurnCredit",
    "chain_facts",
    "credit_turns",
    "group_statistics",
    "health_settings",
    "reward_metrics",
    "score_turns",
]
