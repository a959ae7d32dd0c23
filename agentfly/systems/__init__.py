"""Small systems that need no training, built on the backends, the image engines and the evaluators.

The text systems are here. The refinement loop and the director–generator are separate packages, imported when they are
used: `agentfly.systems.refinement`, `agentfly.systems.director_generator`. Both take their images from
`agentfly.systems.generators`.
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
