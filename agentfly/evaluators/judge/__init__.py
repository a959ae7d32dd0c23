"""A vision-language model as judge, behind any OpenAI-compatible endpoint."""

from agentfly.evaluators.judge.judge import VlmJudge

__all__ = ["VlmJudge"]
