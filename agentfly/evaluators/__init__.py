"""Evaluators of edits, the conversion of scores to rewards, and monitors of both.

The light evaluators are here; `similarity` (CLIP, SigLIP) is imported by `make_evaluator("similarity")`.
"""

from agentfly.evaluators.audit import AuditReport, AuditSettings, JudgeAudit
from agentfly.evaluators.base import (
    AsksOthers,
    Closable,
    EditSample,
    Evaluator,
    NeedsOfSamples,
    Score,
    check_ready,
    check_sample,
    close_evaluator,
)
from agentfly.evaluators.batching import GuardedEvaluator, GuardSettings, NotScored, PassingFault, evaluate_many
from agentfly.evaluators.composite import CompositeEvaluator
from agentfly.evaluators.credit import TurnCredit, credit_turns, score_turns
from agentfly.evaluators.factory import make_evaluator
from agentfly.evaluators.groups import GroupStatistics, group_statistics, reward_metrics
from agentfly.evaluators.monitors import (
    ChainFacts,
    HealthMonitor,
    HealthReport,
    HealthSettings,
    Limit,
    chain_facts,
    health_settings,
)
from agentfly.evaluators.reference import ReferenceConfig, ReferenceEvaluator
from agentfly.evaluators.reward import Reward, RewardConfig, compose_reward
from agentfly.evaluators.rubrics import Rubric, available_rubrics, load_rubric
from agentfly.evaluators.structural import StructuralConfig, StructuralEvaluator

__all__ = [
    "AsksOthers",
    "AuditReport",
    "AuditSettings",
    "ChainFacts",
    "Closable",
    "CompositeEvaluator",
    "EditSample",
    "Evaluator",
    "GroupStatistics",
    "GuardSettings",
    "GuardedEvaluator",
    "HealthMonitor",
    "HealthReport",
    "HealthSettings",
    "JudgeAudit",
    "Limit",
    "NeedsOfSamples",
    "NotScored",
    "PassingFault",
    "ReferenceConfig",
    "ReferenceEvaluator",
    "Reward",
    "RewardConfig",
    "Rubric",
    "Score",
    "StructuralConfig",
    "StructuralEvaluator",
    "TurnCredit",
    "available_rubrics",
    "chain_facts",
    "check_ready",
    "check_sample",
    "close_evaluator",
    "compose_reward",
    "credit_turns",
    "evaluate_many",
    "group_statistics",
    "health_settings",
    "load_rubric",
    "make_evaluator",
    "reward_metrics",
    "score_turns",
]
