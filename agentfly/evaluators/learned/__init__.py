"""Learned rewards: models that score an edit from its instruction, its source and its result."""

from agentfly.evaluators.learned.base import LearnedEvaluator, LearnedSettings, RewardModel

__all__ = ["LearnedEvaluator", "LearnedSettings", "RewardModel"]
