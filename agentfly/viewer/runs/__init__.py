"""Runs on disk, as the viewer finds them."""

from agentfly.viewer.runs.folder import Kind, Part, RunFolder, find_run

__all__ = ["Kind", "Part", "RunFolder", "find_run"]
