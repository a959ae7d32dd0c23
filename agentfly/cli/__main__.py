"""Run `agentfly` as `python -m agentfly.cli`."""

from __future__ import annotations

from agentfly.cli import main

main()
