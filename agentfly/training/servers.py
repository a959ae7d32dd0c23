"""Check that the image servers of a run answer before it starts: a call to a silent one waits for minutes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping

from agentfly.errors import TrainingError
from agentfly.training.checks import RAY_ADDRESS
from agentfly.training.settings import TrainSettings

logger = logging.getLogger(__name__)


def silent_servers(settings: TrainSettings) -> Mapping[str, str]:
    """Servers of a run that cannot be used, and why; one that still loads its model is none of them."""
    if not settings.client_nodes:
        return {}
    from agentfly.vision.remote import PoolSettings
    from agentfly.vision.remote.engines import node_config
    from agentfly.vision.remote.settings import read_address
    from agentfly.vision.remote.transport import probe_nodes

    configs = [node_config(read_address(node)) for node in settings.client_nodes]
    found = asyncio.run(probe_nodes(configs, PoolSettings(probe_seconds=5.0)))
    return {
        name: node.unusable or node.counters.last_error
        for name, node in zip(settings.client_nodes, found, strict=True)
        if node.operations is None and not node.starting
    }


def require_servers(settings: TrainSettings) -> None:
    """Warn of servers that cannot be used, which the others do without.

    Raises:
        TrainingError: there is no other. Where Ray runs already, those who call may see more than is seen from here.
    """
    silent = silent_servers(settings)
    why = "; ".join(f"{name}: {reason}" for name, reason in silent.items())
    if silent and len(silent) == len(settings.client_nodes) and RAY_ADDRESS not in os.environ:
        raise TrainingError(
            f"no image server can be used ({why}): start one with `agentfly serve-images`, or let the engines do "
            "everything with agentfly.client_nodes=[]"
        )
    if silent:
        logger.warning("image servers that cannot be used from here: %s", why)
