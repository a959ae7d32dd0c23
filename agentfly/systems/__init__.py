"""Small systems that need no training, built on the backends, the image engines and the evaluators.

The text systems are here. The refinement loop and the director–generator are separate packages, imported when they are
used: `agentfly.systems.refinement`, `agentfly.systems.director_generator`. Both take their images from
`agentfly.systems.generators`.
"""

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
