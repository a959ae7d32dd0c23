"""`python -m agentfly.cli` is `agentfly`."""

from __future__ import annotations

from agentfly.cli import main

main()
