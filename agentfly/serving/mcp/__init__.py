"""The tools over the Model Context Protocol, for agents and programs of others: `agentfly mcp`."""
