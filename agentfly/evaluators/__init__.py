"""Evaluators of edits, the conversion of scores to rewards, and rubrics.

The light evaluators are here; `similarity` (CLIP, SigLIP) is imported by `make_evaluator("similarity")`.
"""

import importlib
import warnings

from agentfly.evaluators.base import (
    AsksOthers,
    Closable,
    EditSample,
    Evaluator,
    GroupEvaluator,
    NeedsOfSamples,
    NotScored,
    Score,
    Sleeps,
    check_ready,
    check_sample,
    close_evaluator,
    sleep_evaluator,
    wake_evaluator,
)
from agentfly.evaluators.factory import CompositeEvaluator, make_evaluator
from agentfly.evaluators.guarded import GuardedEvaluator, GuardSettings, PassingFault, evaluate_many
from agentfly.evaluators.measured.reference import ReferenceConfig, ReferenceEvaluator
from agentfly.evaluators.measured.structural import StructuralConfig, StructuralEvaluator
from agentfly.evaluators.reward import Reward, RewardConfig, compose_reward
from agentfly.evaluators.rubrics import Rubric, available_rubrics, load_rubric

__all__ = [
    "AsksOthers",
    "Closable",
    "CompositeEvaluator",
    "EditSample",
    "Evaluator",
    "GroupEvaluator",
    "GuardSettings",
    "GuardedEvaluator",
    "NeedsOfSamples",
    "NotScored",
    "PassingFault",
    "ReferenceConfig",
    "ReferenceEvaluator",
    "Reward",
    "RewardConfig",
    "Rubric",
    "Score",
    "Sleeps",
    "StructuralConfig",
    "StructuralEvaluator",
    "available_rubrics",
    "check_ready",
    "check_sample",
    "close_evaluator",
    "compose_reward",
    "evaluate_many",
    "load_rubric",
    "make_evaluator",
    "sleep_evaluator",
    "wake_evaluator",
]

# Moved to `agentfly.training.metrics` in version 0.2; the old import goes with the next minor version.
_MOVED = frozenset(
    {
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
    }
)


def __getattr__(name: str) -> object:
    """Return a name that has moved to `agentfly.training.metrics`, with a warning that says so."""
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    metrics = importlib.import_module("agentfly.training.metrics")
    warnings.warn(f"{name} has moved: import it from agentfly.training.metrics", DeprecationWarning, stacklevel=2)
    return getattr(metrics, name)
