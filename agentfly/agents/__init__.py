"""Agents, their rollouts and their trajectories."""

from agentfly.agents.agent import Agent, AgentArguments
from agentfly.agents.chain import AgentSettings, Chain, RolloutLimits
from agentfly.agents.image_editing import ImageEditingAgent
from agentfly.agents.result import RunResult
from agentfly.agents.reward_function import reward
from agentfly.agents.rollout import Rollout
from agentfly.agents.streaming import (
    ChainEnd,
    ChainStart,
    Delta,
    ErrorRaised,
    Event,
    Observation,
    RunEnd,
    RunStart,
    ToolEnd,
    ToolStart,
    TurnEnd,
    TurnStart,
)
from agentfly.agents.tasks import EvaluationSetup, edit_sample, score_trajectory, task_conversation
from agentfly.agents.token_check import TokenTrace
from agentfly.agents.trajectory import StopReason, ToolRecord, Trajectory, Turn

__all__ = [
    "Agent",
    "AgentArguments",
    "AgentSettings",
    "Chain",
    "ChainEnd",
    "ChainStart",
    "Delta",
    "ErrorRaised",
    "EvaluationSetup",
    "Event",
    "ImageEditingAgent",
    "Observation",
    "Rollout",
    "RolloutLimits",
    "RunEnd",
    "RunResult",
    "RunStart",
    "StopReason",
    "TokenTrace",
    "ToolEnd",
    "ToolRecord",
    "ToolStart",
    "Trajectory",
    "Turn",
    "TurnEnd",
    "TurnStart",
    "edit_sample",
    "reward",
    "score_trajectory",
    "task_conversation",
]
