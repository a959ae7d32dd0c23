"""Do the image servers of a run answer? Asked before it starts: a call to silent ones waits for minutes, and fails."""

from __future__ import annotations

import asyncio

from agentfly.errors import TrainingError
from agentfly.training.settings import TrainSettings


def silent_servers(settings: TrainSettings) -> list[str]:
    """Servers of a run that do not answer; one that still loads its model does."""
    if not settings.client_nodes:
        return []
    from agentfly.vision.remote import NodeConfig, PoolSettings
    from agentfly.vision.remote.transport import probe_nodes

    configs = [NodeConfig(f"http://{node}") for node in settings.client_nodes]
    found = asyncio.run(probe_nodes(configs, PoolSettings(probe_seconds=5.0)))
    pairs = zip(settings.client_nodes, found, strict=True)
    return [name for name, node in pairs if node.operations is None and not node.starting]


def require_servers(settings: TrainSettings) -> list[str]:
    """The servers that do not answer, which others can do without.

    Raises:
        TrainingError: none answers.
    """
    silent = silent_servers(settings)
    if silent and len(silent) == len(settings.client_nodes):
        raise TrainingError(
            f"no image server answers ({', '.join(silent)}): start one with `agentfly serve-images`, or let the "
            "engines do everything with agentfly.client_nodes=[]"
        )
    return silent
