"""The image server: engines in worker processes behind an OpenAI-compatible HTTP API.

The process that answers HTTP never imports an engine, so no fault of a model can end it. A worker that crashes is
started again, and the request that it held goes to another worker once. `http` has the application and its endpoints,
`workers` the queue and the processes with the engines, and `command` starts both.
"""

from agentfly.serving.image_server.settings import EngineOptions, ServerSettings, UploadLimits
from agentfly.serving.image_server.workers.messages import Operation, Outcome, Work

__all__ = ["EngineOptions", "Operation", "Outcome", "ServerSettings", "UploadLimits", "Work"]
