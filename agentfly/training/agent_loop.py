"""verl's side door to our rollout: the very loop of `agent.run()`, on verl's rollout server.

verl makes one loop object a sample. What they share in a worker process (agent, codec, evaluator) is built once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput

from agentfly.agents import (
    AgentSettings,
    EvaluationSetup,
    ImageEditingAgent,
    Rollout,
    RolloutLimits,
    Trajectory,
    score_trajectory,
    task_conversation,
)
from agentfly.agents.llm_backends.base import Generation, GenerationRequest, OnDelta, SamplingParams
from agentfly.datasets import EditTask
from agentfly.errors import BackendError
from agentfly.evaluators import ReferenceEvaluator, RewardConfig
from agentfly.images import ImageStore
from agentfly.templates import ChatCodec, load_template
from agentfly.training.rows import read_task


class LoopSettings(BaseModel):
    """What the agent loop's YAML may set.

    Attributes:
        template: chat template; the checkpoint's own when None.
        system_prompt: first message, None for none.
        max_turns, max_tokens_per_turn, max_tool_calls, max_images, tool_timeout: limits of a chain.
        reward: how a score becomes a reward.
        trajectory_log: JSONL file that gets one line a finished trajectory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str | None = None
    system_prompt: str | None = None
    max_turns: int = 4
    max_tokens_per_turn: int = 96
    max_tool_calls: int = 8
    max_images: int = 8
    tool_timeout: float = 600.0
    reward: RewardConfig = RewardConfig()
    trajectory_log: str | None = None


class VerlBackend:
    """A token-level backend on verl's rollout server.

    Args:
        server: verl's client of the rollout servers.
        codec: of the checkpoint that is trained.
        sampling: verl's sampling parameters of this batch (training or validation).

    Attributes:
        extras: verl's own fields of each generation (which weights sampled it).
    """

    def __init__(self, server: Any, codec: ChatCodec, sampling: Mapping[str, Any]) -> None:
        self._server = server
        self._sampling = dict(sampling)
        self.codec: ChatCodec | None = codec
        self._codec = codec
        self.extras: list[Mapping[str, Any]] = []

    async def generate(self, request: GenerationRequest, on_delta: OnDelta | None = None) -> Generation:
        """One turn; see `LLMBackend.generate`."""
        if request.load_image is None:
            raise BackendError("verl's backend needs the pictures of the request")
        images = [request.load_image(handle) for handle in request.images]
        output = await self._server.generate(
            request_id=request.session_id,
            prompt_ids=list(request.prompt_ids),
            # A sampled placeholder would stand for a picture that does not exist, and break the next prompt.
            sampling_params={
                **self._sampling,
                "max_tokens": request.sampling.max_tokens,
                "logit_bias": {self._codec.image_id: -100.0},
            },
            image_data=images or None,
        )
        self.extras.append(output.extra_fields)
        ids = tuple(output.token_ids)
        ended = bool(ids) and ids[-1] in self._codec.eos_ids
        return Generation(
            text=self._codec.decode(ids),
            finish_reason="abort" if output.stop_reason == "aborted" else "stop" if ended else "length",
            token_ids=ids,
            logprobs=tuple(output.log_probs) if output.log_probs else None,
            prompt_tokens=len(request.prompt_ids),
            completion_tokens=len(ids),
        )

    async def close(self) -> None:
        """verl owns the server."""


class AgentFlyAgentLoop(AgentLoopBase):
    """Runs one chain of an `ImageEditingAgent` and hands its exact tokens, pictures and reward to verl.

    It is named in the agent loop's YAML, not with verl's `@register`: that decorator runs when the class is imported,
    which is after the YAML was read, and would replace the entry that carries the settings.
    """

    def __init__(self, *args: Any, settings: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = LoopSettings.model_validate(_plain(settings))

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """One sample of one row."""
        task = read_task(kwargs["extra_info"])
        codec = _codec(self.processor, self.settings.template)
        backend = VerlBackend(self.server_manager, codec, sampling_params)
        trajectory, store = await self._chain(task, backend, kwargs)
        await score_trajectory(trajectory, task, store, _evaluation(self.settings.reward))
        self._log(trajectory, kwargs)
        return _output(trajectory, store, backend.extras, self.rollout_config.response_length)

    async def _chain(
        self, task: EditTask, backend: VerlBackend, kwargs: Mapping[str, Any]
    ) -> tuple[Trajectory, ImageStore]:
        # A store of its own: the pictures of a chain are freed with it.
        store, settings = ImageStore(), self.settings
        limits = RolloutLimits(
            max_turns=settings.max_turns,
            max_tokens_per_turn=settings.max_tokens_per_turn,
            max_response_tokens=self.rollout_config.response_length,
            max_context_tokens=self.rollout_config.prompt_length + self.rollout_config.response_length,
            max_tool_calls=settings.max_tool_calls,
            max_images=settings.max_images,
            tool_timeout=settings.tool_timeout,
        )
        sampling = SamplingParams(max_tokens=settings.max_tokens_per_turn)
        agent = ImageEditingAgent(
            "verl",
            backend=backend,
            store=store,
            settings=AgentSettings(system_prompt=settings.system_prompt, limits=limits, sampling=sampling),
        )
        chain = agent.chain(task_conversation(task), str(kwargs["uid"]), int(kwargs.get("session_id", 0)))
        return await Rollout(backend, limits, sampling).run(chain), store

    def _log(self, trajectory: Trajectory, kwargs: Mapping[str, Any]) -> None:
        if self.settings.trajectory_log is None:
            return
        line = {
            "step": int(kwargs.get("global_steps", -1)),
            "validate": bool(kwargs.get("__validate__", False)),
            "task_type": kwargs.get("data_source"),
            "trajectory": json.loads(trajectory.to_json()),
        }
        with Path(self.settings.trajectory_log).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _output(
    trajectory: Trajectory, store: ImageStore, extras: list[Mapping[str, Any]], response_length: int
) -> AgentLoopOutput:
    tokens = trajectory.tokens
    if tokens is None or not tokens.response_ids:
        raise BackendError(f"chain {trajectory.id} sampled nothing: {trajectory.error or trajectory.stop_reason}")
    if len(tokens.response_ids) > response_length:
        raise BackendError(f"chain {trajectory.id}: {len(tokens.response_ids)} ids do not fit in {response_length}")
    extra: dict[str, Any] = dict(extras[0]) if extras else {}
    if extras and extras[-1].get("max_global_steps"):
        extra["max_global_steps"] = extras[-1]["max_global_steps"]
    records = trajectory.tool_records
    extra["reward_extra_info"] = {
        "score": float(trajectory.score or 0.0),
        **{f"part/{name}": float(value) for name, value in trajectory.reward_parts.items()},
        "tool_calls": float(len(records)),
        "failed_calls": float(sum(record.error is not None for record in records)),
        "answered": float(trajectory.answered),
    }
    seconds = sum(turn.seconds for turn in trajectory.turns)
    metrics = AgentLoopMetrics(
        generate_sequences=seconds, tool_calls=sum(record.seconds for record in records), num_preempted=-1
    )
    return AgentLoopOutput(
        prompt_ids=tokens.prompt_ids,
        response_ids=tokens.response_ids,
        response_mask=tokens.mask,
        response_logprobs=tokens.logprobs,
        multi_modal_data={"images": [store.get(handle) for handle in trajectory.images]} if trajectory.images else {},
        reward_score=float(trajectory.reward or 0.0),
        num_turns=2 * len(trajectory.turns),
        metrics=metrics,
        extra_fields=extra,
    )


def _plain(settings: Any) -> dict[str, Any]:
    """Hydra hands nested settings over as OmegaConf nodes."""
    from omegaconf import DictConfig, OmegaConf

    if isinstance(settings, DictConfig):
        settings = OmegaConf.to_container(settings, resolve=True)
    return dict(settings or {})


@lru_cache(maxsize=4)
def _codec(processor: Any, template: str | None) -> ChatCodec:
    return ChatCodec(processor, load_template(template) if template else None)


@lru_cache(maxsize=4)
def _evaluation(reward: RewardConfig) -> EvaluationSetup:
    return EvaluationSetup(ReferenceEvaluator(), reward)
