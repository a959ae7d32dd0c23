"""Agents that can be evaluated: anything that takes a task and returns a trajectory.

Agents are named in a table, or as "module:name". They are imported when they are used. Of the settings that were given,
each gets those that it takes, by keyword.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

from agentfly.agents import ImageEditingAgent
from agentfly.agents.trajectory import Trajectory
from agentfly.datasets.task import EditTask
from agentfly.errors import ConfigError, unknown_name
from agentfly.evaluation.image_editing import ImageEditingTaskAgent
from agentfly.evaluation.settings import EvaluationSettings
from agentfly.images import ImageStore

AGENTS: Mapping[str, str] = {
    "image-editing": "agentfly.evaluation.image_editing:ImageEditingTaskAgent",
    "refinement-loop": "agentfly.systems.refinement.task_agent:RefinementTaskAgent",
    "director-generator": "agentfly.systems.director_generator.task_agent:DirectorGeneratorTaskAgent",
}
# Settings that an agent must take once they are given: leaving one out in silence would evaluate something else.
_DEMANDED = (
    "model",
    "base_url",
    "template",
    "engine",
    "client_nodes",
    "max_turns",
    "max_tokens",
    "temperature",
    "backend_config",
)
# Settings whose options are called otherwise on the command line.
_OPTIONS: Mapping[str, str] = {"client_nodes": "client_nodes (--nodes)"}
# Settings that an agent gets where it takes them.
_OFFERED = ("seed", "timeout", "api_key_env")
# An agent that bounds itself has this share of a task's time, so that what it has done so far is kept.
_OWN_SHARE = 0.95


@runtime_checkable
class TaskAgent(Protocol):
    """Attempts tasks, several at once.

    Attributes:
        name: for tables.
        store: holds the images that its trajectories name.
    """

    @property
    def name(self) -> str: ...

    @property
    def store(self) -> ImageStore: ...

    async def attempt(self, task: EditTask) -> Trajectory:
        """What was done about a task. An exception is a failed task, and does not end the run.

        Raises:
            ConfigError: the agent is set up wrongly, so that it can do no task at all; this ends the run.
        """
        ...

    async def close(self) -> None:
        """Free what the agent holds."""
        ...


def make_task_agent(settings: EvaluationSettings, store: ImageStore) -> TaskAgent:
    """The agent that settings name.

    A subclass of `ImageEditingAgent` needs no wrapper: it is made as that is, with the same settings.

    Args:
        settings: of the run.
        store: where the images of the run are kept, for agents that take one.

    Raises:
        ConfigError: no such agent, it does not take a setting that was given, or what was named is no agent.
    """
    name = settings.agent
    if ":" not in name and name not in AGENTS:
        raise ConfigError(f"{unknown_name('agent', name, AGENTS)}, or module:name of your own")
    found = _find(AGENTS.get(name, name))
    if isinstance(found, TaskAgent) and not isinstance(found, type):
        return found
    if isinstance(found, type) and issubclass(found, ImageEditingAgent):
        found = partial(ImageEditingTaskAgent, agent_class=found)
    if not callable(found):
        raise ConfigError(f"agent {name!r} is {type(found).__name__}: name a class, a function or an object")
    try:
        made = found(**_arguments(found, settings, store))
    except TypeError as fault:
        raise ConfigError(f"agent {name!r}: {fault}; give its arguments with --agent-options") from fault
    if not isinstance(made, TaskAgent):
        raise ConfigError(
            f"agent {name!r} is {type(made).__name__}, which lacks name, store, attempt or close: see "
            "agentfly.evaluation.TaskAgent, or name a subclass of ImageEditingAgent itself"
        )
    return made


def _find(address: str) -> Any:
    module, _, attribute = address.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as fault:
        raise ConfigError(f"there is no agent {address!r} ({fault}): its folder must be on PYTHONPATH") from fault


def _arguments(found: Any, settings: EvaluationSettings, store: ImageStore) -> dict[str, Any]:
    parameters = inspect.signature(found).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments: dict[str, Any] = {}
    for name in _DEMANDED:
        value = getattr(settings, name)
        if value is None or value == {}:
            continue
        if name not in parameters and not anything:
            raise ConfigError(
                f"agent {settings.agent!r} has no setting {_OPTIONS.get(name, name)}: leave it out (it takes "
                f"{', '.join(parameters)})"
            )
        arguments[name] = value
    offered = {"store": store, **{name: getattr(settings, name) for name in _OFFERED}}
    offered["timeout"] = _OWN_SHARE * settings.timeout
    arguments.update({name: value for name, value in offered.items() if name in parameters})
    return {**arguments, **settings.agent_options}
