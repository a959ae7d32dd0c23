"""Engines on image servers: one pool of nodes behind the detector, the inpainter and the editor of an agent."""

from agentfly.vision.remote.engines import RemoteEngines, remote_engines
from agentfly.vision.remote.pool import NodePool
from agentfly.vision.remote.settings import NodeConfig, PoolSettings
from agentfly.vision.remote.statistics import NodeStatistics, PoolStatistics

__all__ = [
    "NodeConfig",
    "NodePool",
    "NodeStatistics",
    "PoolSettings",
    "PoolStatistics",
    "RemoteEngines",
    "remote_engines",
]
