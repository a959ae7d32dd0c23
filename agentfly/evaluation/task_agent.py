"""Agents that can be evaluated: anything that takes a task and returns a trajectory.

An agent is named as everywhere (`agentfly.agents.spec`), by a key of `AGENTS`, or as "module:name" of a `TaskAgent`. It
is imported when it is used, and gets the settings that it takes as keyword arguments. `NamedTaskAgent` makes a
`TaskAgent` of an `Agent`, with the settings of `agentfly edit`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

from agentfly.agents import Agent, AgentSettings, RolloutLimits, Trajectory, task_conversation
from agentfly.agents.factory import make_agent, prompt_of
from agentfly.agents.llm_backends import AsyncVLLMConfig, LLMBackend, SamplingParams
from agentfly.agents.llm_backends.endpoint import endpoint_config, served_model
from agentfly.agents.policy_config import PolicyConfig
from agentfly.agents.spec import CARD, DEFAULT, IMAGE_EDITING, AgentSpec
from agentfly.datasets.task import EditTask
from agentfly.errors import BackendError, ConfigError, unknown_name
from agentfly.evaluation.settings import EvaluationSettings
from agentfly.images import ImageStore
from agentfly.importing import import_object
from agentfly.model_source import QUICKSTART_POLICY, require_policy
from agentfly.redaction import public_url
from agentfly.vision.factory import check_keys
from agentfly.vision.remote.preflight import require_nodes
from agentfly.vision.remote.settings import NodeSpecs, read_nodes

AGENTS: Mapping[str, str] = {
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

    A subclass of `Agent` needs no wrapper: it is made as `agentfly edit` and training make it.

    Args:
        settings: of the run.
        store: keeps the images of the run; for agents that take one.

    Raises:
        ConfigError: there is no such agent, it does not take a setting that was given, or it lacks a method.
    """
    spec = AgentSpec(agent=settings.agent, tools=settings.tools)
    address, options = spec.address_and_options()
    if ":" not in address and address not in (*AGENTS, IMAGE_EDITING, CARD):
        raise ConfigError(
            f"{unknown_name('agent', address, (IMAGE_EDITING, CARD, *AGENTS))}, or module:name of your own"
        )
    found: object = None
    if address not in (IMAGE_EDITING, CARD):
        found = import_object(AGENTS.get(address, address), "agent")
    if found is None or (isinstance(found, type) and issubclass(found, Agent)):
        return _made(partial(NamedTaskAgent, spec), address, settings, store, {})
    if settings.tools is not None:
        raise ConfigError(f"agent {address!r} has tools of its own: leave the tools out, or name a subclass of Agent")
    if isinstance(found, TaskAgent) and not isinstance(found, type):
        return found
    if not callable(found):
        raise ConfigError(f"agent {address!r} is {type(found).__name__}: name a class, a function or an object")
    return _made(found, address, settings, store, options)


def _made(
    maker: Callable[..., object],
    address: str,
    settings: EvaluationSettings,
    store: ImageStore,
    options: Mapping[str, object],
) -> TaskAgent:
    try:
        made = maker(**{**_arguments(maker, address, settings, store), **options})
    except TypeError as fault:
        raise ConfigError(f"agent {address!r}: {fault}; give its arguments with --agent-options") from fault
    if not isinstance(made, TaskAgent):
        raise ConfigError(
            f"agent {address!r} is {type(made).__name__}, which lacks name, store, attempt or close: see "
            "agentfly.evaluation.TaskAgent, or name a subclass of agentfly.agents.Agent itself"
        )
    return made


def _arguments(
    found: Callable[..., object], address: str, settings: EvaluationSettings, store: ImageStore
) -> dict[str, object]:
    parameters = inspect.signature(found).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments: dict[str, object] = {}
    for name in _DEMANDED:
        value = getattr(settings, name)
        if value is None or value == {}:
            continue
        if name not in parameters and not anything:
            raise ConfigError(
                f"agent {address!r} has no setting {_OPTIONS.get(name, name)}: leave it out (it takes "
                f"{', '.join(parameters)})"
            )
        arguments[name] = value
    offered: dict[str, object] = {"store": store, **{name: getattr(settings, name) for name in _OFFERED}}
    offered["timeout"] = _OWN_SHARE * settings.timeout
    arguments.update({name: value for name, value in offered.items() if name in parameters})
    return {**arguments, **settings.agent_options}


class NamedTaskAgent:
    """A `TaskAgent` of an agent by name.

    Args:
        spec: agent and tools, before the policy's card is taken in.
        store: keeps the images.
        model: policy folder, hub name, or the endpoint's model name; None is the policy of the quickstart.
        base_url: OpenAI-compatible endpoint; without it vLLM runs in this process.
        template: chat template; by default the checkpoint's own.
        engine: engine behind the tools; by default the embedded ones.
        client_nodes: image servers, in a form of `agentfly.vision.remote.settings.read_nodes`. They are checked before
            the first task.
        max_turns, max_tokens: generations of a task, and sampled tokens of a turn; by default the policy's own limits.
        temperature: of the sampling; 0 is greedy.
        seed: of the sampling.
        timeout: seconds of a task; work until then is kept.
        api_key_env: environment variable with the endpoint's key.
        backend_config: further fields of `ClientConfig` or `AsyncVLLMConfig`.
        backend: used in place of one made from the settings.
        options: further arguments of the agent.

    Attributes:
        name: for tables: "image-editing", or the name of the class.

    Raises:
        ConfigError: a setting is wrong, there is no policy, or a key is missing.
    """

    def __init__(
        self,
        spec: AgentSpec = DEFAULT,
        *,
        store: ImageStore | None = None,
        model: str | None = None,
        base_url: str | None = None,
        template: str | None = None,
        engine: str | Mapping[str, object] | None = None,
        client_nodes: NodeSpecs | None = None,
        max_turns: int | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        timeout: float | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        backend_config: Mapping[str, object] | None = None,
        backend: LLMBackend | None = None,
        **options: Any,
    ) -> None:
        if base_url is not None and model is None:
            raise ConfigError(f"--model is missing: name the model that {public_url(base_url)} is to be asked for")
        model = require_policy(model) if base_url is None and backend is None else model or QUICKSTART_POLICY
        check_keys(engine)
        self._nodes, self._checked, self._checking = read_nodes(client_nodes), False, asyncio.Lock()
        self._asked = (model, api_key_env)
        self._endpoint = endpoint = None if base_url is None else endpoint_config(base_url, api_key_env, backend_config)
        sampling = SamplingParams(temperature=temperature, seed=seed)
        card = PolicyConfig.read(model)
        spec = spec.over(card.spec, model)
        self.name = spec.label
        self._agent = make_agent(
            spec,
            model,
            template=template,
            backend=backend or ("client" if base_url else "async_vllm"),
            backend_config=None if backend else endpoint or AsyncVLLMConfig(**(backend_config or {})),
            engines=engine,
            client_nodes=self._nodes,
            store=store,
            settings=_settings(spec, card, sampling, max_turns, max_tokens, timeout),
            **options,
        )

    @property
    def store(self) -> ImageStore:
        """The images of the trajectories."""
        return self._agent.store

    async def attempt(self, task: EditTask) -> Trajectory:
        """Run one chain; see `TaskAgent.attempt`.

        Raises:
            ConfigError: the endpoint cannot be reached or refuses the key, or no image server can be used.
        """
        async with self._checking:
            if not self._checked:
                await self._check_services()
                self._checked = True
        return (await self._agent.run([task_conversation(task)]))[0]

    async def _check_services(self) -> None:
        """Ask the endpoint and the image servers, before each of many tasks finds out that one is not there."""
        if self._endpoint is not None:
            try:
                await served_model(self._endpoint, *self._asked)
            except BackendError as fault:
                raise ConfigError(str(fault)) from None
        await require_nodes(self._nodes, "leave --nodes and client_nodes out")

    async def close(self) -> None:
        """Free the backend."""
        await self._agent.close()


def _settings(
    spec: AgentSpec,
    policy: PolicyConfig,
    sampling: SamplingParams,
    max_turns: int | None,
    max_tokens: int | None,
    timeout: float | None,
) -> AgentSettings:
    """Return the policy's own settings with other limits."""
    tokens = max_tokens or policy.max_tokens_per_turn
    limits = RolloutLimits(max_turns=max_turns or policy.max_turns, max_tokens_per_turn=tokens)
    if timeout is not None:
        limits = replace(limits, wall_clock=timeout)
    prompt = prompt_of(spec, policy)
    return AgentSettings(system_prompt=prompt, limits=limits, sampling=replace(sampling, max_tokens=tokens))
