"""The policy of a trial: the recipe's checkpoint on vLLM in this process, an endpoint, or a script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from agentfly.agents.llm_backends import AsyncVLLMBackend, AsyncVLLMConfig, ClientBackend, ClientConfig, ScriptedBackend
from agentfly.agents.llm_backends.base import LLMBackend, SamplingParams
from agentfly.errors import AgentFlyError, ConfigError, first_line
from agentfly.redaction import public_url, read_key
from agentfly.templates import ChatCodec
from agentfly.training.recipe.checks import check_model
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.verl_config import VerlConfig
from agentfly.training.trial.request import TrialRequest
from agentfly.training.trial.script import read_script

# Fields of verl's rollout that vLLM has under the same names.
_SAME = (
    "dtype",
    "gpu_memory_utilization",
    "enforce_eager",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "logprobs_mode",
    "seed",
)
# Of verl's own workers.
_VERLS = ("worker_extension_cls",)


@dataclass(frozen=True)
class Policy:
    """The source of the turns of a trial.

    Attributes:
        label: of the policy, for people.
        codec: of the checkpoint; None where only messages are known, and tokens are not counted.
        backend: returns the backend of the chains of a task, by its number and id.
        sampling: of every turn.
        shared: the backend that all tasks share; None for none.
    """

    label: str
    codec: ChatCodec | None
    backend: Callable[[int, str], LLMBackend]
    sampling: SamplingParams
    shared: LLMBackend | None = None

    async def start(self) -> None:
        """Start the engine: the seconds of the first turns would be those of its start."""
        if isinstance(self.shared, AsyncVLLMBackend):
            await self.shared.start()

    async def close(self) -> None:
        """Stop the engine."""
        if self.shared is not None:
            await self.shared.close()


def make_policy(request: TrialRequest, config: VerlConfig, settings: TrainSettings, sampling: SamplingParams) -> Policy:
    """Make the policy that a request names; an engine starts with its first turn.

    Args:
        request: of the trial.
        config: the complete configuration.
        settings: its section `agentfly`.
        sampling: limit and seed of a turn.

    Raises:
        ConfigError: there is no such model, its processor cannot be loaded, or the script cannot be read.
    """
    rollout = _plain(config.actor_rollout_ref.rollout)
    sampling = replace(sampling, temperature=float(rollout["temperature"]), top_p=float(rollout["top_p"]))
    if request.scripted is not None:
        return _scripted(request.scripted, settings, sampling)
    if request.base_url is not None:
        name = request.model or settings.model
        key = {} if request.api_key_env is None else {"api_key": _key(request.api_key_env)}
        client = ClientBackend(name, ClientConfig(base_url=request.base_url, **key), template=settings.template)
        return Policy(f"{name} at {public_url(request.base_url)}", None, lambda *_: client, sampling, client)
    check_model(settings)
    if rollout["top_k"] > 0:
        sampling = replace(sampling, extra={"top_k": rollout["top_k"]})
    engine = engine_config(rollout, settings, trust=bool(_plain(config.actor_rollout_ref.model)["trust_remote_code"]))
    backend = AsyncVLLMBackend(settings.model, engine, template=settings.template)
    return Policy(f"{settings.model} on vLLM", backend.codec, lambda *_: backend, sampling, backend)


def engine_config(rollout: dict[str, Any], settings: TrainSettings, *, trust: bool) -> AsyncVLLMConfig:
    """Return the settings of the engine that verl would start for a recipe.

    Args:
        rollout: verl's section `actor_rollout_ref.rollout`.
        settings: of the run.
        trust: run code that comes with the checkpoint.
    """
    own = {name: value for name, value in (rollout["engine_kwargs"].get("vllm") or {}).items() if name not in _VERLS}
    same = {name: rollout[name] for name in _SAME}
    given = {name: value for name, value in {**same, **own}.items() if value is not None}
    return AsyncVLLMConfig(
        **given,
        tensor_parallel_size=rollout["tensor_model_parallel_size"],
        pipeline_parallel_size=rollout["pipeline_model_parallel_size"],
        trust_remote_code=trust,
        start_timeout=settings.patience.start,
    )


def _scripted(path: Path, settings: TrainSettings, sampling: SamplingParams) -> Policy:
    script, codec = read_script(path), None
    if Path(settings.model).is_dir():
        try:
            codec = ChatCodec.from_pretrained(settings.model, settings.template)
        except AgentFlyError:
            raise
        except Exception as fault:  # transformers raises errors of many kinds for the same reason
            raise ConfigError(f"cannot load the processor of {settings.model!r}: {first_line(fault)}") from fault

    def backend(number: int, task_id: str) -> LLMBackend:
        return ScriptedBackend(script.turns(number, task_id, codec), codec=codec)

    return Policy(f"script {path}", codec, backend, sampling)


def _key(variable: str) -> SecretStr:
    key = read_key(variable)
    if key is None:
        raise ConfigError(f"--api-key-env {variable}: this environment variable is not set")
    return SecretStr(key)


def _plain(node: object) -> dict[str, Any]:
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(node, resolve=True)
    assert isinstance(found, dict)
    return {str(name): value for name, value in found.items()}
