"""`ImageEditingAgent` as `agentfly eval` runs it: with the settings of `agentfly edit`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
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
from agentfly.agents.policy_config import AgentCard
from agentfly.datasets.task import EditTask
from agentfly.errors import ConfigError
from agentfly.images import ImageStore
from agentfly.model_source import QUICKSTART_POLICY, require_policy
from agentfly.vision.factory import check_keys
from agentfly.vision.remote.preflight import require_nodes
from agentfly.vision.remote.settings import NodeSpecs, read_nodes


class ImageEditingTaskAgent:
    """The image-editing agent on tasks, or a subclass of it.

    Args:
        store: where images are kept.
        model: policy folder, hub name, or the endpoint's model name; None is the policy of the quickstart.
        base_url: OpenAI-compatible endpoint; without it vLLM runs in this process.
        template: chat template; the checkpoint's own without it.
        engine: what works behind the tools; the embedded engines without it.
        client_nodes: image servers, as `agentfly.vision.remote.settings.read_nodes` takes them; they are asked whether
            they answer before the first task.
        max_turns, max_tokens: generations of a task, and sampled tokens of a turn; the policy's own limits without.
        temperature: 0 is greedy.
        seed: of the sampling.
        timeout: seconds of a task; what was done until then is kept.
        api_key_env: environment variable with the endpoint's key.
        backend_config: further fields of `ClientConfig` or `AsyncVLLMConfig`.
        backend: a backend instead of one made from the settings.
        agent_class: the subclass.
        options: further arguments of it.

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
        engine: str | Mapping[str, Any] | None = None,
        client_nodes: NodeSpecs | None = None,
        max_turns: int | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        timeout: float | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        backend_config: Mapping[str, Any] | None = None,
        backend: LLMBackend | None = None,
        agent_class: type[ImageEditingAgent] = ImageEditingAgent,
        **options: Any,
    ) -> None:
        self.name = "image-editing" if agent_class is ImageEditingAgent else agent_class.__name__
        if base_url is not None and model is None:
            raise ConfigError(f"--model is missing: name the model that {base_url} is to be asked for")
        if base_url is None and backend is None:
            model = require_policy(model)
        model = model or QUICKSTART_POLICY
        check_keys(engine)
        self._nodes = read_nodes(client_nodes)
        self._nodes_asked, self._asking = False, asyncio.Lock()
        card = AgentCard.read(model)
        tokens = max_tokens or card.max_tokens_per_turn
        limits = RolloutLimits(max_turns=max_turns or card.max_turns, max_tokens_per_turn=tokens)
        if timeout is not None:
            limits = RolloutLimits(**{**vars(limits), "wall_clock": timeout})
        endpoint = None if base_url is None else endpoint_config(base_url, api_key_env, backend_config)
        has_own_words = agent_class.default_system_prompt != ImageEditingAgent.default_system_prompt
        prompt = agent_class.default_system_prompt if has_own_words else card.system_prompt
        self._agent = agent_class(
            model,
            template=template,
            backend=backend or ("client" if base_url else "async_vllm"),
            backend_config=None if backend else endpoint or AsyncVLLMConfig(**(backend_config or {})),
            engines=engine,
            client_nodes=self._nodes,
            store=store,
            settings=AgentSettings(
                system_prompt=prompt,
                limits=limits,
                sampling=SamplingParams(temperature=temperature, max_tokens=tokens, seed=seed),
            ),
            **options,
        )

    @property
    def store(self) -> ImageStore:
        """The images of the trajectories."""
        return self._agent.store

    async def attempt(self, task: EditTask) -> Trajectory:
        """One chain; see `TaskAgent.attempt`.

        Raises:
            ConfigError: no image server can be used.
        """
        async with self._asking:
            if not self._nodes_asked:
                await require_nodes(self._nodes, "leave --nodes and client_nodes out")
                self._nodes_asked = True
        return (await self._agent.run([task_conversation(task)]))[0]

    async def close(self) -> None:
        """Free the backend."""
        await self._agent.close()
