"""verl's agent loop that runs our rollout, the same one as `agent.run()`, on verl's rollout server.

verl makes one loop object for each sample. The chains of a worker process share settings, codec and engines, which are
built once.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, InstanceOf
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register

from agentfly.agents import Rollout, RolloutLimits
from agentfly.agents.llm_backends.base import Generation, GenerationRequest, OnDelta
from agentfly.errors import BackendError
from agentfly.images import without_transparency
from agentfly.templates import ChatCodec, load_template
from agentfly.templates.families import model_type_of
from agentfly.training.recipe.compose import settings_of
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.verl_config import VerlConfig
from agentfly.training.recipe.verl_dataset import read_task
from agentfly.training.verl.chain_faults import check_trainable
from agentfly.training.verl.messages import ChainRequest, EngineFailure, FinishedChain
from agentfly.training.verl.protocols import RolloutServer
from agentfly.training.verl.run_agent import RunContext, make_run_context, new_chain, run_limits

# Errors of Ray and vLLM that say that an engine, or the server before it, is gone. Ray raises an error of a remote
# process as a class made of its own and the original one, and vLLM's need not be importable here: names must do.
_DEAD = frozenset({"RayActorError", "ActorDiedError", "ActorUnavailableError", "EngineDeadError"})


class VerlBackend:
    """A token-level backend on verl's rollout server, for one chain.

    Args:
        server: verl's client of the rollout servers.
        codec: of the checkpoint that is trained.
        sampling: verl's sampling parameters of this batch (training or validation).
    """

    def __init__(self, server: RolloutServer, codec: ChatCodec, sampling: Mapping[str, object]) -> None:
        self._server = server
        self._sampling = dict(sampling)
        self.codec: ChatCodec | None = codec
        self._codec = codec
        self._fields: list[Mapping[str, object]] = []

    async def generate(self, request: GenerationRequest, on_delta: OnDelta | None = None) -> Generation:
        """Generate one turn; see `LLMBackend.generate`."""
        load = request.load_image
        if load is None:
            raise BackendError("verl's backend needs the images of the request")
        images = [without_transparency(load(handle)) for handle in request.images]
        try:
            output = await self._server.generate(
                request_id=request.session_id,
                # verl does this for the image processor of Qwen alone (verl/workers/rollout/utils.py:104); vLLM would
                # take each further id of an image for another image's.
                prompt_ids=self._codec.collapse(request.prompt_ids, request.images, load),
                # A sampled placeholder would stand for an image that does not exist, and break the next prompt.
                sampling_params={
                    **self._sampling,
                    "max_tokens": request.sampling.max_tokens,
                    **({} if request.sampling.seed is None else {"seed": request.sampling.seed}),
                    "logit_bias": dict.fromkeys(self._codec.never_sampled, -100.0),
                },
                image_data=images or None,
            )
        except Exception as fault:
            if is_engine_death(fault):
                lines = str(fault).strip().splitlines() or [""]
                await EngineFailure(f"{type(fault).__name__}: {lines[-1]}").put()
                raise BackendError(f"the rollout engine is gone: {type(fault).__name__}") from fault
            raise
        self._fields.append(output.extra_fields)
        ids = tuple(output.token_ids)
        ended = bool(ids) and ids[-1] in self._codec.eos_ids
        return Generation(
            text=self._codec.decode(ids),
            finish_reason="abort" if output.stop_reason == "aborted" else "stop" if ended else "length",
            token_ids=ids,
            logprobs=tuple(output.log_probs) if output.log_probs else None,
            prompt_tokens=len(request.prompt_ids),
            completion_tokens=len(ids),
            extra=output.extra_fields,
        )

    def sample_fields(self) -> dict[str, object]:
        """Return verl's own fields of the chain: those of the first generation, with the last one's newest weights."""
        if not self._fields:
            return {}
        newest = self._fields[-1].get("max_global_steps")
        return {**self._fields[0], **({"max_global_steps": newest} if newest else {})}

    async def close(self) -> None:
        """Do nothing: verl owns the server."""


def is_engine_death(fault: BaseException) -> bool:
    """Return True if an error of a generation says that its engine, or the server before it, is gone."""
    return any(kind.__name__ in _DEAD for kind in type(fault).__mro__)


@dataclass(frozen=True)
class LoopContext(RunContext):
    """The objects that all chains of a worker process share.

    Attributes:
        codec: of the checkpoint that is trained.
    """

    codec: ChatCodec

    @classmethod
    def of(cls, config: VerlConfig, processor: object) -> LoopContext:
        """Build the context of a run.

        Args:
            config: the complete configuration.
            processor: of the policy.
        """
        settings = settings_of(config)
        template = load_template(settings.template) if settings.template else None
        codec = ChatCodec(processor, template, model_type=model_type_of(Path(settings.model)))
        return cls.build(settings, codec, run_limits(config, settings))

    @classmethod
    def build(cls, settings: TrainSettings, codec: ChatCodec, limits: RolloutLimits) -> LoopContext:
        """Build the context from its parts.

        Args:
            settings: of the run.
            codec: of the checkpoint that is trained.
            limits: of every chain.
        """
        return cls(**vars(make_run_context(settings, codec, limits)), codec=codec)


_context: tuple[weakref.ref[VerlConfig], LoopContext] | None = None


def loop_context(config: VerlConfig, processor: object) -> LoopContext:
    """Return the context of this process, built for its first chain.

    verl makes the loop objects itself and hands them its own configuration, nothing of the worker's
    (verl/experimental/agent_loop/agent_loop.py:683). So the context is kept here, for one configuration at a time.

    Args:
        config: the complete configuration; another object means another context.
        processor: of the policy.
    """
    global _context
    if _context is None or _context[0]() is not config:
        _context = weakref.ref(config), LoopContext.of(config, processor)
    return _context[1]


class ChainOutput(AgentLoopOutput):
    """verl's output of a loop, with the chain that it was made from.

    Attributes:
        chain: stays in the worker's process; verl stores every other field of a sample.
        token_rewards: one for each response token; all of the reward is on the last one when None.
    """

    chain: InstanceOf[FinishedChain] = Field(exclude=True)
    token_rewards: list[float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that verl stores of a sample."""
        fields: dict[str, Any] = super().as_dict()
        rewards = fields.pop("token_rewards", None)
        if rewards is not None:
            fields["rm_scores"] = torch.tensor(rewards, dtype=torch.float32)
        return fields


@register("agentfly")
class AgentFlyAgentLoop(AgentLoopBase):  # type: ignore[misc, unused-ignore]
    """Runs one chain of the run's agent and hands its exact tokens and images to verl, unscored."""

    async def run(self, sampling_params: dict[str, object], **kwargs: object) -> ChainOutput:
        """Run one sample of one row.

        Args:
            sampling_params: verl's, of this batch.
            **kwargs: see `ChainRequest.from_arguments`.

        Raises:
            ChainFault: it must not be trained on.
        """
        context, request = loop_context(self.config, self.processor), ChainRequest.from_arguments(kwargs)
        backend = VerlBackend(self.server_manager, context.codec, sampling_params)
        step = f"{'validation' if request.validate else 'step'}-{request.step}"
        await context.agent.prepare()
        task, group = read_task(request.row), _group_name(step, request.row["index"], request.uid)
        chain = new_chain(context, task, group, request.session)
        chain.session = f"{request.uid}-{request.session}"
        trajectory = await Rollout(backend, context.limits, context.sampling).run(chain)
        finished = FinishedChain(trajectory, chain.view.store, task, request, context.settings)
        return output_of(finished, context.limits.max_response_tokens, backend.sample_fields())


_uids: dict[str, dict[int, list[str]]] = {}  # of the prompts that were drawn, by step and row


def _group_name(step: str, row: int, uid: str) -> str:
    """Return the name of a prompt's chains: the same in every run, for seeds are made from it; verl's uid is not.

    A step that is sampled again may draw a row for the second time.
    """
    if step not in _uids:
        _uids.clear()
    known = _uids.setdefault(step, {}).setdefault(row, [])
    if uid not in known:
        known.append(uid)
    again = known.index(uid)
    return f"{step}-row-{row}" + (f"-again-{again}" if again else "")


def output_of(chain: FinishedChain, max_response_tokens: int, fields: Mapping[str, object]) -> ChainOutput:
    """Return verl's output of a chain.

    Args:
        chain: finished, not scored.
        max_response_tokens: tokens after the prompt that verl has room for.
        fields: see `VerlBackend.sample_fields`.

    Raises:
        ChainFault: the chain must not be trained on.
    """
    trajectory = chain.trajectory
    tokens = check_trainable(chain, max_response_tokens)
    images = [chain.store.shared(handle) for handle in trajectory.images]
    return ChainOutput(
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
        extra_fields=dict(fields),
        chain=chain,
    )
