"""The base class of the text agents; see `agentfly.systems`."""

from agentfly.systems import BaseAgent

__all__ = ["BaseAgent"]
