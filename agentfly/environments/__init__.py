"""The editing environment for other trainers: our tasks, tools, limits and scores around a policy that is not ours.

`editing` has the episodes. `openenv` serves them to OpenEnv's clients, `verifiers` makes them a task set of verifiers;
each of the two needs the library of its name, so neither is imported here.
"""

from agentfly.environments.editing import EditingEnvironment, Episode, StepResult
from agentfly.environments.settings import EnvironmentSettings

__all__ = ["EditingEnvironment", "EnvironmentSettings", "Episode", "StepResult"]
