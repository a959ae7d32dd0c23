"""Small systems on the backends, the image engines and the evaluators, without copies of their code.

The text systems are here. The refinement loop and the director–generator are separate packages, imported when they are
used: `agentfly.systems.refinement`, `agentfly.systems.director_generator`.
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
