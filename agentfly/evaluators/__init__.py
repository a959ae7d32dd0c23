"""Judging edits: what an evaluator is, the one that knows the answer, and how a score becomes a reward."""

from agentfly.evaluators.base import EditSample, Evaluator, Score
from agentfly.evaluators.reference import ReferenceConfig, ReferenceEvaluator
from agentfly.evaluators.reward import Reward, RewardConfig, compose_reward

__all__ = [
    "EditSample",
    "Evaluator",
    "ReferenceConfig",
    "ReferenceEvaluator",
    "Reward",
    "RewardConfig",
    "Score",
    "compose_reward",
]
