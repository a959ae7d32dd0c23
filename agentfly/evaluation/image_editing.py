"""`ImageEditingAgent` for `agentfly eval`, with the settings of `agentfly edit`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentfly.agents import (
    AgentSettings,
    ImageEditingAgent,
    RolloutLimits,
    Trajectory,
    task_conversation,
)
from agentfly.agents.llm_backends import AsyncVLLMConfig, LLMBackend, SamplingParams
from agentfly.agents.llm_backends.endpoint import endpoint_config
from agentfly.agents.policy_config import PolicyConfig
from agentfly.datasets.task import EditTask
from agentfly.errors import ConfigError
from agentfly.images import ImageStore
from agentfly.model_source import QUICKSTART_POLICY, require_policy
from agentfly.vision.factory import check_keys
from agentfly.vision.remote.preflight import require_nodes
from agentfly.vision.remote.settings import NodeSpecs, read_nodes


class ImageEditingTaskAgent:
    """A `TaskAgent` of the image-editing agent, or of a subclass.

    Args:
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
        agent_class: the agent.
        options: further arguments of the agent.

    Attributes:
        name: for tables: "image-editing", or the name of the subclass.

    Raises:
        ConfigError: a setting is wrong, there is no policy, or a key is missing.
    """

    def __init__(
        self,
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
        agent_class: type[ImageEditingAgent] = ImageEditingAgent,
        **options: Any,
    ) -> None:
        self.name = "image-editing" if agent_class is ImageEditingAgent else agent_class.__name__
        if base_url is not None and model is None:
            raise ConfigError(f"--model is missing: name the model that {base_url} is to be asked for")
        model = require_policy(model) if base_url is None and backend is None else model or QUICKSTART_POLICY
        check_keys(engine)
        self._nodes, self._nodes_checked, self._checking = read_nodes(client_nodes), False, asyncio.Lock()
        endpoint = None if base_url is None else endpoint_config(base_url, api_key_env, backend_config)
        sampling = SamplingParams(temperature=temperature, seed=seed)
        self._agent = agent_class(
            model,
            template=template,
            backend=backend or ("client" if base_url else "async_vllm"),
            backend_config=None if backend else endpoint or AsyncVLLMConfig(**(backend_config or {})),
            engines=engine,
            client_nodes=self._nodes,
            store=store,
            settings=_settings(agent_class, PolicyConfig.read(model), sampling, max_turns, max_tokens, timeout),
            **options,
        )

    @property
    def store(self) -> ImageStore:
        """The images of the trajectories."""
        return self._agent.store

    async def attempt(self, task: EditTask) -> Trajectory:
        """Run one chain; see `TaskAgent.attempt`.

        Raises:
            ConfigError: no image server can be used.
        """
        async with self._checking:
            if not self._nodes_checked:
                await require_nodes(self._nodes, "leave --nodes and client_nodes out")
                self._nodes_checked = True
        return (await self._agent.run([task_conversation(task)]))[0]

    async def close(self) -> None:
        """Free the backend."""
        await self._agent.close()


def _settings(
    agent_class: type[ImageEditingAgent],
    policy: PolicyConfig,
    sampling: SamplingParams,
    max_turns: int | None,
    max_tokens: int | None,
    timeout: float | None,
) -> AgentSettings:
    """Return the policy's own settings with other limits. A subclass with a prompt of its own keeps that."""
    tokens = max_tokens or policy.max_tokens_per_turn
    limits = RolloutLimits(max_turns=max_turns or policy.max_turns, max_tokens_per_turn=tokens)
    if timeout is not None:
        limits = replace(limits, wall_clock=timeout)
    has_own_prompt = agent_class.default_system_prompt != ImageEditingAgent.default_system_prompt
    prompt = agent_class.default_system_prompt if has_own_prompt else policy.system_prompt
    return AgentSettings(system_prompt=prompt, limits=limits, sampling=replace(sampling, max_tokens=tokens))
