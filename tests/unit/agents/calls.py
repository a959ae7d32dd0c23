"""Turns of a scripted policy."""

from __future__ import annotations

import json


def call(tool: str, /, **arguments: object) -> str:
    """A tool call in the form of the compact template."""
    return f"<tool_call>{json.dumps({'name': tool, 'arguments': arguments})}</tool_call>"
