"""Check that image servers answer before anything costly starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from agentfly.errors import ConfigError
from agentfly.vision.remote.settings import NodeConfig, PoolSettings
from agentfly.vision.remote.transport import probe_nodes

logger = logging.getLogger(__name__)


async def find_unusable_nodes(nodes: Sequence[NodeConfig]) -> Mapping[str, str]:
    """Return the servers that cannot be used, by address, with the reason.

    A server that still loads its model can be used.
    """
    found = await probe_nodes(nodes, PoolSettings(probe_seconds=5.0))
    return {
        node.url: node.unusable or node.counters.last_error
        for node in found
        if node.operations is None and not node.starting
    }


async def require_nodes(nodes: Sequence[NodeConfig], without: str, *, warn_only: bool = False) -> Mapping[str, str]:
    """Probe servers and warn of those that cannot be used; the others do their work.

    Args:
        nodes: the servers; may be empty.
        without: how to do without servers, in the words of the option that named them.
        warn_only: warn even where no server can be used from here.

    Returns:
        The servers that cannot be used, by address, with the reason.

    Raises:
        ConfigError: no server can be used.
    """
    unusable = await find_unusable_nodes(nodes) if nodes else {}
    why = "; ".join(reason if reason.startswith(url) else f"{url}: {reason}" for url, reason in unusable.items())
    if unusable and not warn_only and all(node.base_url.rstrip("/") in unusable for node in nodes):
        raise ConfigError(f"no image server can be used ({why}): start one with `agentfly serve-images`, or {without}")
    if unusable:
        logger.warning("image servers that cannot be used: %s", why)
    return unusable
