"""Systems of several calls; see `agentfly.systems`."""

from agentfly.systems import ChainOfAgents, MultiCallSystem

__all__ = ["ChainOfAgents", "MultiCallSystem"]
