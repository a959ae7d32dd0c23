"""Check that the image servers are healthy and offer what the tools need, with the requests of a pool."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from agentfly.doctor.examination import Examination
from agentfly.doctor.findings import Finding, error, ok, skipped, warning
from agentfly.errors import ConfigError
from agentfly.vision.remote import NodeConfig, PoolSettings
from agentfly.vision.remote.adapters import OPERATIONS
from agentfly.vision.remote.node import Circuit, Node
from agentfly.vision.remote.settings import read_nodes
from agentfly.vision.remote.transport import probe_nodes

# Less than the check's own limit, so that a silent node has a name.
_SETTINGS = PoolSettings(probe_seconds=5.0)
_SERVE = "start it: python -m agentfly.agents.specialized.image_agent.utils.diffuser_apis --port PORT ..."


def nodes(examination: Examination) -> Iterator[Finding]:
    """Health, kind and operations of each node."""
    addresses = examination.request.nodes
    if not addresses:
        yield skipped("no image nodes were named", "--nodes HOST:PORT ...")
        return
    well: list[NodeConfig] = []
    for address in addresses:
        try:
            well += read_nodes(address, "--nodes", examination.request.nodes_key_env)
        except ConfigError as fault:
            yield error(str(fault), "write HOST:PORT or http(s)://HOST, and set the variable of --nodes-key-env")
    yield from check_nodes(asyncio.run(probe_nodes(well, _SETTINGS)))


def check_nodes(found: Sequence[Node]) -> Iterator[Finding]:
    """What was learned of each node, and what none of those that are well offers."""
    for node in found:
        yield _state(node)
    offered = {operation for node in found if _is_well(node) for operation in node.operations or ()}
    missing = [operation for operation in OPERATIONS if operation not in offered]
    if offered and missing:
        yield warning(
            f"no node offers {' or '.join(missing)}: the embedded OpenCV engine does that instead",
            "add a node that does, or name an engine for it",
        )


def _is_well(node: Node) -> bool:
    return node.operations is not None and node.circuit is not Circuit.open


def _state(node: Node) -> Finding:
    if node.unusable:
        return error(
            node.unusable,
            "name the address of an image server, and the variable with its key by --nodes-key-env",
        )
    if node.starting:
        return warning(f"{node.url} is not ready yet", "wait until its /health answers 200: its model is being loaded")
    if not _is_well(node):
        return error(f"{node.url}: {node.counters.last_error}", f"check host and port; {_SERVE}")
    kind = node.adapter.name if node.adapter else "unknown"
    return ok(f"{node.url}: {kind} with {node.model or 'a model'}: {', '.join(sorted(node.operations or ()))}")
