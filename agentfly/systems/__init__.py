"""Small orchestrators on the backends, the image engines and the evaluators; nothing of theirs is done here again.

The text systems are here. The refinement loop and the director–generator are rooms of their own, imported where they
are used: `agentfly.systems.refinement`, `agentfly.systems.director_generator`.
"""

from agentfly.systems.text import (
    BackendModel,
    BaseAgent,
    BaseModel,
    BasicAgent,
    ChainOfAgents,
    ChainStep,
    ContextAgent,
    MultiCallSystem,
    VLLMModel,
)

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
