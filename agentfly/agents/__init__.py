"""Agents, their rollouts and what they leave behind."""

from agentfly.agents.agent import Agent, AgentSettings, RunResult
from agentfly.agents.image_editing import ImageEditingAgent
from agentfly.agents.rollout import Chain, Rollout, RolloutLimits
from agentfly.agents.streaming import Event
from agentfly.agents.tasks import EvaluationSetup, score_trajectory, task_conversation
from agentfly.agents.trajectory import StopReason, TokenTrace, ToolRecord, Trajectory, Turn

__all__ = [
    "Agent",
    "AgentSettings",
    "Chain",
    "EvaluationSetup",
    "Event",
    "ImageEditingAgent",
    "Rollout",
    "RolloutLimits",
    "RunResult",
    "StopReason",
    "TokenTrace",
    "ToolRecord",
    "Trajectory",
    "Turn",
    "score_trajectory",
    "task_conversation",
]
