"""The protocols by name."""

from __future__ import annotations

from collections.abc import Mapping

from agentfly.errors import ConfigError, unknown_name
from agentfly.evaluation.protocols.base import Protocol, Split
from agentfly.evaluation.protocols.emu_edit import EMU_EDIT
from agentfly.evaluation.protocols.gedit import GEDIT
from agentfly.evaluation.protocols.imgedit import IMGEDIT
from agentfly.evaluation.protocols.kris import KRIS
from agentfly.evaluation.protocols.magicbrush import MAGICBRUSH
from agentfly.evaluation.protocols.risebench import RISEBENCH

_ALL: tuple[Protocol, ...] = (GEDIT, IMGEDIT, RISEBENCH, KRIS, EMU_EDIT, MAGICBRUSH)
PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in _ALL}


def find_protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        ConfigError: there is no such protocol.
    """
    if name not in PROTOCOLS:
        raise ConfigError(unknown_name("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]


def find_split(protocol: Protocol, name: str | None) -> tuple[str, Split]:
    """Return a split of a protocol and its name.

    Args:
        protocol: of the benchmark.
        name: of the split; None for the default.

    Raises:
        ConfigError: there is no such split.
    """
    name = name or next(iter(protocol.splits))
    if name not in protocol.splits:
        raise ConfigError(unknown_name(f"split of {protocol.name}", name, protocol.splits))
    return name, protocol.splits[name]
