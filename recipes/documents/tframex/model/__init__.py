"""Models of the text systems; see `agentfly.systems`."""

from agentfly.systems import BaseModel, VLLMModel

__all__ = ["BaseModel", "VLLMModel"]
