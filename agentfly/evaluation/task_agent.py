"""Agents that can be evaluated: anything that takes a task and returns a trajectory.

An agent is named by a key of `AGENTS` or as "module:name", and imported when it is used. It gets the settings that it
takes as keyword arguments.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, runtime_checkable

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
# Settings that an agent must take if they are given: without one of them, another agent would be evaluated.
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
# Settings with another name on the command line.
_OPTIONS: Mapping[str, str] = {"client_nodes": "client_nodes (--nodes)"}
# Settings that an agent gets if it takes them.
_OFFERED = ("seed", "timeout", "api_key_env")
# An agent that keeps its own time limit gets this share of a task's time, so that its work until then is kept.
_OWN_SHARE = 0.95


@runtime_checkable
class TaskAgent(Protocol):
    """An agent that attempts tasks, several at the same time.

    Attributes:
        name: for tables.
        store: the images that its trajectories name.
    """

    @property
    def name(self) -> str: ...

    @property
    def store(self) -> ImageStore: ...

    async def attempt(self, task: EditTask) -> Trajectory:
        """Attempt a task and return the trajectory. An exception makes a failed task and does not end the run.

        Raises:
            ConfigError: the agent is set up wrongly and can do no task at all; this ends the run.
        """
        ...

    async def close(self) -> None:
        """Free the resources of the agent."""
        ...


def make_task_agent(settings: EvaluationSettings, store: ImageStore) -> TaskAgent:
    """Make the agent of an evaluation.

    A subclass of `ImageEditingAgent` needs no wrapper: it is made with the same settings as that class.

    Args:
        settings: of the run.
        store: keeps the images of the run; for agents that take one.

    Raises:
        ConfigError: there is no such agent, it does not take a setting that was given, or it lacks a method.
    """
    name = settings.agent
    if ":" not in name and name not in AGENTS:
        raise ConfigError(f"{unknown_name('agent', name, AGENTS)}, or module:name of your own")
    address = AGENTS.get(name, name)
    module, _, attribute = address.partition(":")
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as fault:
        raise ConfigError(f"there is no agent {address!r} ({fault}): its folder must be on PYTHONPATH") from fault
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


def _arguments(found: Callable[..., object], settings: EvaluationSettings, store: ImageStore) -> dict[str, object]:
    parameters = inspect.signature(found).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments: dict[str, object] = {}
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
    offered: dict[str, object] = {"store": store, **{name: getattr(settings, name) for name in _OFFERED}}
    offered["timeout"] = _OWN_SHARE * settings.timeout
    arguments.update({name: value for name, value in offered.items() if name in parameters})
    return {**arguments, **settings.agent_options}
