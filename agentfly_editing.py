"""The plug-in that verifiers finds under the name `agentfly-editing`: task set, harness and environment."""

from agentfly.environments.verifiers import EditingEnv, EditingHarness, EditingTaskset

__all__ = ["EditingEnv", "EditingHarness", "EditingTaskset"]
