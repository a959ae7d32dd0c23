"""The pages: each module has a `router`, which `agentfly.viewer.server` includes."""
