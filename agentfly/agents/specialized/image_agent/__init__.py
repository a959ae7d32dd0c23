"""The image-editing agent's own commands; the agent itself is `agentfly.agents.ImageEditingAgent`."""
