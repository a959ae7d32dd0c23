"""Tools: their description for a model, and the reading and execution of the model's calls."""

from agentfly.tools.decorator import Tool, ToolResult, tool
from agentfly.tools.image_tools import ImageTools
from agentfly.tools.parsing import ParsedText, parse_tool_calls
from agentfly.tools.toolset import Toolset

__all__ = ["ImageTools", "ParsedText", "Tool", "ToolResult", "Toolset", "parse_tool_calls", "tool"]
