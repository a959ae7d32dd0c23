"""Check that the image servers are healthy and offer the operations of the tools, with the requests of a pool."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from agentfly.doctor.examination import Examination
from agentfly.doctor.findings import Finding, error, ok, skipped, warning
from agentfly.errors import ConfigError
from agentfly.vision.remote import NodeConfig
from agentfly.vision.remote.adapters import OPERATIONS
from agentfly.vision.remote.node import Circuit, Node
from agentfly.vision.remote.preflight import probe_nodes
from agentfly.vision.remote.settings import read_nodes

_SERVE = "start it: python -m agentfly.agents.specialized.image_agent.utils.diffuser_apis --port PORT ..."


def nodes(examination: Examination) -> Iterator[Finding]:
    """Check health, kind and operations of each node."""
    addresses = examination.request.nodes
    if not addresses:
        yield skipped("no image nodes were named", "--nodes HOST:PORT ...")
        return
    valid: list[NodeConfig] = []
    for address in addresses:
        try:
            valid += read_nodes(address, "--nodes", examination.request.nodes_key_env)
        except ConfigError as fault:
            yield error(str(fault), "write HOST:PORT or http(s)://HOST, and set the variable of --nodes-key-env")
    yield from check_nodes(asyncio.run(probe_nodes(valid)))


def check_nodes(found: Sequence[Node]) -> Iterator[Finding]:
    """Judge the state of each node, and the operations that no healthy node offers."""
    for node in found:
        if node.unusable:
            yield error(
                node.unusable, "name the address of an image server, and the variable with its key by --nodes-key-env"
            )
        elif node.starting:
            fix = "wait until its /health answers 200: its model is being loaded"
            yield warning(f"{node.url} is not ready yet", fix)
        elif not _is_healthy(node):
            yield error(f"{node.url}: {node.counters.last_error}", f"check host and port; {_SERVE}")
        else:
            kind = node.adapter.name if node.adapter else "unknown"
            operations = ", ".join(sorted(node.operations or ()))
            yield ok(f"{node.url}: {kind} with {node.model or 'a model'}: {operations}")
    offered = {operation for node in found if _is_healthy(node) for operation in node.operations or ()}
    missing = [operation for operation in OPERATIONS if operation not in offered]
    if offered and missing:
        yield warning(
            f"no node offers {' or '.join(missing)}: the embedded OpenCV engine does that instead",
            "add a node that does, or name an engine for it",
        )


def _is_healthy(node: Node) -> bool:
    return node.operations is not None and node.circuit is not Circuit.open
