"""Agents of the text systems; see `agentfly.systems`."""

from agentfly.systems import BaseAgent, BasicAgent, ContextAgent

__all__ = ["BaseAgent", "BasicAgent", "ContextAgent"]
