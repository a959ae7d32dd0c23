"""verl's agent loop that runs our rollout, the same one as `agent.run()`, on verl's rollout server.

verl makes one loop object for each sample. What they share in a worker process (settings, codec, engines) is built
once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import PrivateAttr
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register

from agentfly.agents import (
    AgentSettings,
    Chain,
    ImageEditingAgent,
    Rollout,
    RolloutLimits,
    Trajectory,
    task_conversation,
)
from agentfly.agents.llm_backends.base import Generation, GenerationRequest, OnDelta, SamplingParams
from agentfly.datasets import EditTask
from agentfly.errors import BackendError
from agentfly.images import ImageStore
from agentfly.templates import ChatCodec, load_template
from agentfly.training.recipe.compose import settings_of
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.verl_dataset import read_task
from agentfly.training.verl.chain_faults import ChainFault, stopped_by
from agentfly.training.verl.engine_failure import is_lost, tell_lost
from agentfly.vision import Engines


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
            raise BackendError("verl's backend needs the images of the request")
        images = [request.load_image(handle) for handle in request.images]
        try:
            output = await self._server.generate(
                request_id=request.session_id,
                prompt_ids=list(request.prompt_ids),
                # A sampled placeholder would stand for an image that does not exist, and break the next prompt.
                sampling_params={
                    **self._sampling,
                    "max_tokens": request.sampling.max_tokens,
                    **({} if request.sampling.seed is None else {"seed": request.sampling.seed}),
                    "logit_bias": {self._codec.image_id: -100.0},
                },
                image_data=images or None,
            )
        except Exception as fault:
            if is_lost(fault):
                await tell_lost(fault)
                raise BackendError(f"the rollout engine is gone: {type(fault).__name__}") from fault
            raise
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


@dataclass(frozen=True)
class Shared:
    """What all chains of a worker process share.

    Attributes:
        settings: of the run.
        codec: of the checkpoint that is trained.
        engines: what works behind the tools.
        limits: of every chain.
        system_prompt: first message of every chain, None for none.
    """

    settings: TrainSettings
    codec: ChatCodec
    engines: Engines
    limits: RolloutLimits
    system_prompt: str | None

    @classmethod
    def of(cls, config: Any, processor: Any) -> Shared:
        """From the whole configuration of a run, and the processor of the policy."""
        settings = settings_of(config)
        rollout = config.actor_rollout_ref.rollout
        codec = ChatCodec(processor, load_template(settings.template) if settings.template else None)
        limits = settings.rollout_limits(rollout.prompt_length, rollout.response_length)
        return cls(settings, codec, make_run_engines(settings), limits, settings.card().system_prompt)


def make_run_engines(settings: TrainSettings) -> Engines:
    """The engines of a run: local ones, or a pool of image servers in front of them."""
    from agentfly.vision.factory import make_engines

    engines = make_engines(settings.engines)
    if not settings.client_nodes:
        return engines
    from agentfly.vision.remote import remote_engines

    return remote_engines(
        settings.nodes(),
        max_requests_per_minute=settings.max_requests_per_minute,
        # Less than the tool's own limit: the pool knows what is wrong with its servers.
        timeout=0.9 * settings.limits.tool_timeout,
        otherwise=engines,
    )


_shared: dict[int, tuple[Any, Shared]] = {}


def shared(config: Any, processor: Any) -> Shared:
    """What the chains of this process share; built for the first of them."""
    if id(config) not in _shared:
        # The configuration is kept, so that its id stays its own.
        _shared[id(config)] = config, Shared.of(config, processor)
    return _shared[id(config)][1]


@dataclass
class FinishedChain:
    """A chain that has run, on its way to its reward.

    Attributes:
        trajectory: without score.
        store: its images.
        row: what `read_task` needs.
        step: of training; -1 where verl tells none.
        validate: whether it belongs to a validation.
        shared: see `Shared`.
    """

    trajectory: Trajectory
    store: ImageStore
    row: Mapping[str, Any]
    step: int
    validate: bool
    shared: Shared


class ChainOutput(AgentLoopOutput):
    """verl's output with the chain that it came from.

    Attributes:
        token_rewards: one a response token; all of the reward on the last one when None.
    """

    token_rewards: list[float] | None = None
    _chain: FinishedChain = PrivateAttr()

    @property
    def chain(self) -> FinishedChain:
        """Where it came from."""
        return self._chain

    def as_dict(self) -> dict[str, Any]:
        """The fields that verl stores of a sample."""
        fields = super().as_dict()
        rewards = fields.pop("token_rewards", None)
        if rewards is not None:
            fields["rm_scores"] = torch.tensor(rewards, dtype=torch.float32)
        return dict(fields)


@register("agentfly")
class AgentFlyAgentLoop(AgentLoopBase):  # type: ignore[misc, unused-ignore]
    """Runs one chain of an `ImageEditingAgent` and hands its exact tokens and images to verl, unscored."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> ChainOutput:
        """One sample of one row.

        Raises:
            ChainFault: it must not be trained on.
        """
        common = shared(self.config, self.processor)
        backend = VerlBackend(self.server_manager, common.codec, sampling_params)
        chain = await _run_chain(common, backend, kwargs)
        return _output(chain, backend.extras)


async def _run_chain(common: Shared, backend: VerlBackend, kwargs: Mapping[str, Any]) -> FinishedChain:
    row, step = kwargs["extra_info"], int(kwargs.get("global_steps", -1))
    validate, session = bool(kwargs.get("__validate__", False)), int(kwargs.get("session_id", 0))
    group = _group_name(f"{'validation' if validate else 'step'}-{step}", row["index"], kwargs["uid"])
    chain = new_chain(common, backend, read_task(row), group, session)
    chain.session = f"{kwargs['uid']}-{session}"
    trajectory = await Rollout(backend, common.limits, _sampling(common)).run(chain)
    return FinishedChain(trajectory, chain.view.store, row, step, validate, common)


_uids: dict[str, dict[int, list[str]]] = {}


def _group_name(step: str, row: int, uid: str) -> str:
    """Name of a prompt's chains: the same in every run, for seeds are made from it; verl's uid is not.

    A step that is sampled again may draw a row for the second time.
    """
    if step not in _uids:
        _uids.clear()
    known = _uids.setdefault(step, {}).setdefault(row, [])
    if uid not in known:
        known.append(uid)
    again = known.index(uid)
    return f"{step}-row-{row}" + (f"-again-{again}" if again else "")


def new_chain(common: Shared, backend: VerlBackend, task: EditTask, group: str, number: int) -> Chain:
    """A chain of a task, ready to run."""
    settings = AgentSettings(system_prompt=common.system_prompt, limits=common.limits, sampling=_sampling(common))
    # A store of its own: the images of a chain are freed with it.
    agent = ImageEditingAgent("verl", backend=backend, engines=common.engines, store=ImageStore(), settings=settings)
    chain = agent.chain(task_conversation(task), group, number)
    if common.settings.tools is not None:
        chain.tools = chain.tools.only(common.settings.tools)
    return chain


def _sampling(common: Shared) -> SamplingParams:
    seed = common.settings.seed if common.settings.seeded else None
    return SamplingParams(max_tokens=common.limits.max_tokens_per_turn, seed=seed)


def _output(chain: FinishedChain, extras: Sequence[Mapping[str, Any]]) -> ChainOutput:
    trajectory, limits = chain.trajectory, chain.shared.limits
    tokens = trajectory.tokens
    if (reason := stopped_by(trajectory.stop_reason)) is not None:
        # Its reward would blame the policy for what was none of its doing.
        why = trajectory.error or trajectory.stop_reason
        raise ChainFault(reason, f"chain {trajectory.id} is not trained on: {why}", chain)
    if tokens is None or not tokens.response_ids:
        raise ChainFault("no_room", f"chain {trajectory.id} sampled nothing: {trajectory.stop_reason}", chain)
    if (length := len(tokens.response_ids)) > limits.max_response_tokens:
        message = f"chain {trajectory.id}: {length} ids do not fit in {limits.max_response_tokens}"
        raise ChainFault("no_room", message, chain)
    extra: dict[str, Any] = dict(extras[0]) if extras else {}
    if extras and extras[-1].get("max_global_steps"):
        extra["max_global_steps"] = extras[-1]["max_global_steps"]
    images = [chain.store.get(handle) for handle in trajectory.images]
    output = ChainOutput(
        prompt_ids=tokens.prompt_ids,
        response_ids=tokens.response_ids,
        response_mask=tokens.mask,
        response_logprobs=tokens.logprobs,
        multi_modal_data={"images": images} if images else {},
        num_turns=2 * len(trajectory.turns),
        metrics=AgentLoopMetrics(
            generate_sequences=sum(turn.seconds for turn in trajectory.turns),
            tool_calls=sum(record.seconds for record in trajectory.tool_records),
            num_preempted=-1,
        ),
        extra_fields=extra,
    )
    output._chain = chain
    return output
