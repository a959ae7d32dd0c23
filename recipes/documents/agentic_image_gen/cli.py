"""The command line: that of `agentfly generate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from agentfly.cli import main as agentfly


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `agentfly generate`.

    Args:
        arguments: of the command; None for those of the process.
    """
    agentfly(["generate", *(sys.argv[1:] if arguments is None else arguments)])
