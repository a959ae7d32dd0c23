"""Tools of foreign servers of the Model Context Protocol, with the guards that our own tools have.

Agent(tools=[McpServer(command="uvx", args=("some-server",)), McpServer(url="https://tools.example/mcp")])
"""

from agentfly.tools.mcp.settings import McpServer
from agentfly.tools.mcp.source import McpTools

__all__ = ["McpServer", "McpTools"]
