"""Agents and systems that read and write text, on any LLM backend."""

from agentfly.systems.text.agents import BaseAgent, BasicAgent, ContextAgent
from agentfly.systems.text.chain_of_agents import ChainOfAgents, ChainStep
from agentfly.systems.text.model import BackendModel, BaseModel, VLLMModel
from agentfly.systems.text.multi_call import MultiCallSystem

__all__ = [
    "BackendModel",
    "BaseAgent",
    "BaseModel",
    "BasicAgent",
    "ChainOfAgents",
    "ChainStep",
    "ContextAgent",
    "MultiCallSystem",
    "VLLMModel",
]
