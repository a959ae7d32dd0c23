"""Check that image servers answer before anything costly starts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from agentfly.errors import ConfigError
from agentfly.vision.remote.node import Node
from agentfly.vision.remote.settings import NodeConfig, PoolSettings
from agentfly.vision.remote.transport import Transport

logger = logging.getLogger(__name__)


async def probe_nodes(configs: Sequence[NodeConfig]) -> list[Node]:
    """Probe servers once, all at the same time. A silent one takes `PoolSettings.probe_seconds`.

    Returns:
        A node for each server, in their order, which holds the result of its probe.
    """
    settings = PoolSettings()
    found = [Node(config, settings) for config in configs]
    transport = Transport(settings)
    try:
        await asyncio.gather(*(transport.probe(node) for node in found))
    finally:
        await transport.close()
    return found


async def require_nodes(nodes: Sequence[NodeConfig], without: str, *, warn_only: bool = False) -> Mapping[str, str]:
    """Probe servers and warn of those that cannot be used; the others do their work, once they have loaded their model.

    Args:
        nodes: the servers; may be empty.
        without: how to do without servers, in the words of the option that named them.
        warn_only: warn even where no server can be used from here.

    Returns:
        The servers that cannot be used, by address, with the reason.

    Raises:
        ConfigError: no server can be used.
    """
    unusable = {
        node.url: node.unusable or node.counters.last_error
        for node in (await probe_nodes(nodes) if nodes else ())
        if node.operations is None and not node.starting
    }
    why = "; ".join(reason if reason.startswith(url) else f"{url}: {reason}" for url, reason in unusable.items())
    if unusable and not warn_only and all(node.base_url.rstrip("/") in unusable for node in nodes):
        raise ConfigError(f"no image server can be used ({why}): start one with `agentfly serve-images`, or {without}")
    if unusable:
        logger.warning("image servers that cannot be used: %s", why)
    return unusable
