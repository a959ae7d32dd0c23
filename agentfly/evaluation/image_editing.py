"""`ImageEditingAgent` as `agentfly eval` runs it: with the settings of `agentfly edit`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import SecretStr

from agentfly.agents import (
    AgentSettings,
    ImageEditingAgent,
    RolloutLimits,
    Trajectory,
    task_conversation,
)
from agentfly.agents.card import AgentCard
from agentfly.agents.llm_backends import AsyncVLLMConfig, ClientConfig, LLMBackend, SamplingParams
from agentfly.datasets.task import EditTask
from agentfly.images import ImageStore
from agentfly.model_source import check_policy

QUICKSTART_POLICY = "runs/quickstart/policy"


class ImageEditingTaskAgent:
    """The image-editing agent on tasks.

    Args:
        store: where pictures are kept.
        model: policy folder, hub name, or the endpoint's model name.
        base_url: OpenAI-compatible endpoint; without it vLLM runs in this process.
        template: chat template; the checkpoint's own without it.
        engine: what works behind the tools; the embedded engines without it.
        client_nodes: image servers, as `[host, port]` each.
        max_turns, max_tokens: generations of a task, and sampled tokens of a turn; the policy's own limits without.
        temperature: 0 is greedy.
        seed: of the sampling.
        timeout: seconds of a task; what was done until then is kept.
        api_key_env: environment variable with the endpoint's key.
        backend_config: further fields of `ClientConfig` or `AsyncVLLMConfig`.
        backend: a backend instead of one made from the settings.

    Raises:
        ConfigError: a setting is wrong, or there is no policy.
    """

    name = "image-editing"

    def __init__(
        self,
        *,
        store: ImageStore | None = None,
        model: str = QUICKSTART_POLICY,
        base_url: str | None = None,
        template: str | None = None,
        engine: str | Mapping[str, Any] | None = None,
        client_nodes: Sequence[tuple[str, int]] | None = None,
        max_turns: int | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        timeout: float | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        backend_config: Mapping[str, Any] | None = None,
        backend: LLMBackend | None = None,
    ) -> None:
        if backend is None and base_url is None:
            check_policy(model)
        card = AgentCard.read(model)
        tokens = max_tokens or card.max_tokens_per_turn
        limits = RolloutLimits(max_turns=max_turns or card.max_turns, max_tokens_per_turn=tokens)
        if timeout is not None:
            limits = RolloutLimits(**{**vars(limits), "wall_clock": timeout})
        self._agent = ImageEditingAgent(
            model,
            template=template,
            backend=backend or ("client" if base_url else "async_vllm"),
            backend_config=None if backend else _backend_config(base_url, api_key_env, backend_config or {}),
            engines=engine,
            client_nodes=[(str(host), int(port)) for host, port in client_nodes] if client_nodes else None,
            store=store,
            settings=AgentSettings(
                system_prompt=card.system_prompt,
                limits=limits,
                sampling=SamplingParams(temperature=temperature, max_tokens=tokens, seed=seed),
            ),
        )

    @property
    def store(self) -> ImageStore:
        """The pictures of the trajectories."""
        return self._agent.store

    async def attempt(self, task: EditTask) -> Trajectory:
        """One chain; see `TaskAgent.attempt`."""
        return (await self._agent.run([task_conversation(task)]))[0]

    async def close(self) -> None:
        """Free the backend."""
        await self._agent.close()


def _backend_config(base_url: str | None, api_key_env: str, more: Mapping[str, Any]) -> ClientConfig | AsyncVLLMConfig:
    if base_url is None:
        return AsyncVLLMConfig(**more)
    key = os.environ.get(api_key_env)
    return ClientConfig(**{"base_url": base_url, "api_key": SecretStr(key) if key else None, **more})
