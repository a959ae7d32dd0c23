"""verl's worker of agent loops, with five additions: exact image inputs, scoring apart, chains of a prompt that are
scored together, a log of every chain, and a report of every chain that is lost.

verl takes the class from `actor_rollout_ref.rollout.agent.agent_loop_manager_class`. A chain is scored by verl's reward
loop, in processes of its own, while other chains go on.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
import torch
import transfer_queue as tq
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from agentfly.aio import TimeLimitExceeded, awaited, with_timeout
from agentfly.training.launch.evaluator_sleep import servers_of
from agentfly.training.launch.log_reader import log_to_run
from agentfly.training.metrics.chain_report import turn_results
from agentfly.training.recipe.compose import settings_of
from agentfly.training.recipe.readiness import checkpoints_to_come
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recording.image_budget import ImageBudget
from agentfly.training.recording.recorder import ChainRecorder, Record
from agentfly.training.verl.agent_loop import ChainOutput, LoopContext, loop_context
from agentfly.training.verl.chain_faults import ChainFault, lost_chain
from agentfly.training.verl.messages import (
    VALIDATE,
    ChainToScore,
    EngineFailure,
    FinishedChain,
    ScoredChain,
    UnscoredChain,
    from_answers,
)
from agentfly.training.verl.parity import ImageInputs, check_images
from agentfly.training.verl.protocols import RewardWorker
from agentfly.training.verl.scoring import images_needed, reward_info
from agentfly.training.verl.scoring_group import Answer, ScoringGroup
from agentfly.training.verl.step_metrics import report_of
from agentfly.training.verl.tracking import use_step_tracking

# verl decorates its worker with `ray.remote`, and Ray refuses to inherit from the result.
_Worker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class AgentFlyLoopWorker(_Worker):  # type: ignore[misc, unused-ignore]
    """Runs chains; see the module."""

    reward_loop_worker_handles: Sequence[RewardWorker]
    _context: LoopContext
    _images: ImageInputs
    _recorder: ChainRecorder
    _groups: dict[str, ScoringGroup]

    def __init__(self, *arguments: object, **named: object) -> None:
        # Its tensors are small, and threads that spin at the end of each operation take the core of the rollout engine.
        torch.set_num_threads(1)
        log_to_run()
        super().__init__(*arguments, **named)
        self._context = loop_context(self.config, self.processor)
        self._images = ImageInputs(self._context.codec)
        self._groups = {}
        settings = self._context.settings
        steps = int(self.config.trainer.total_training_steps)
        self._recorder = recorder_of(settings, steps, checkpoints_to_come(self.config, settings))
        # What is loaded stays until the end. Looking through all of it would stop every chain for a third of a second,
        # again and again.
        gc.collect()
        gc.freeze()

    async def drain_records(self, limit: float) -> bool:
        """Wait until the chains that have finished are recorded; see `ChainRecorder.drain`."""
        return await asyncio.to_thread(self._recorder.drain, limit)

    async def _run_prompt(
        self,
        prompt: dict[str, Any],
        sampling_params: dict[str, object],
        trajectory: dict[str, object],
        trace: bool = False,
    ) -> None:
        """Run the chains of a prompt; where they are compared with each other, the last one has all of them scored.

        verl runs all chains of a prompt in one worker, each scored as soon as it has finished
        (verl/trainer/ppo/v1/agent_loop_tq.py:_run_prompt). The number of chains is read as it reads it. Chains of a
        validation are scored alone: their scores are compared with those of other steps.
        """
        settings, uid = self._context.settings, prompt["uid"]
        if settings.scores_groups and not trajectory["validate"]:
            size = int(prompt.get("__rollout_n__", self.config.actor_rollout_ref.rollout.n))
            self._groups[uid] = ScoringGroup(size, self._ask_reward_loop, settings.longest_chain)
        try:
            await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        finally:
            self._groups.pop(uid, None)

    async def _run_agent_loop(
        self, sampling_params: dict[str, object], trajectory: dict[str, object], **kwargs: Any
    ) -> None:
        """Run, score and hand over one chain; report a lost one, since verl would train on the rest without a word."""
        validate = bool(trajectory["validate"])
        try:
            await super()._run_agent_loop(sampling_params, trajectory, **kwargs, **{VALIDATE: validate})
        except Exception as fault:
            try:
                if isinstance(fault, ChainFault):
                    self._recorder.record(record_of(fault.chain))
            finally:
                await lost_chain(fault, kwargs["uid"], validate=validate).put(kwargs["session_id"])
            raise
        finally:
            if (group := self._groups.get(kwargs["uid"])) is not None:
                group.leave(kwargs["session_id"])

    async def _agent_loop_postprocess(self, output: ChainOutput, validate: bool, **kwargs: object) -> None:
        """Score a chain and put it into the queue, as verl does; our own keyword is no field of a sample."""
        kwargs.pop(VALIDATE, None)
        await super()._agent_loop_postprocess(output, validate, **kwargs)

    def _compute_multi_modal_inputs(self, output: ChainOutput, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the processor once for each image; verl runs it again for every chain, from decoded text."""
        trajectory, images = output.chain.trajectory, (output.multi_modal_data or {}).get("images", [])
        inputs = self._images.of(trajectory.images, images, input_ids)
        ids = input_ids.flatten().tolist()
        check_images(trajectory, ids, inputs.get("image_grid_thw"), self._images.codec)
        return inputs

    async def _compute_score(self, outputs: Sequence[ChainOutput], kwargs: Mapping[str, object]) -> None:
        """Score chains through verl's reward loop; a chain that cannot be scored does not reach the trainer."""
        for output in outputs:
            chain = output.chain
            request = chain.request
            group = self._groups.get(request.uid)
            if group is None:
                [answer] = await self._ask_reward_loop([chain])
            else:
                answer = await group.score(request.session, chain)
            if isinstance(answer, UnscoredChain):
                chain.trajectory.reward_error = answer.reason
                message = f"chain {chain.trajectory.id} is not scored: {answer.reason}"
                raise ChainFault("not_scored", message, chain)
            answer.write_on(chain.trajectory)
            output.reward_score = answer.reward
            output.token_rewards = None if answer.token_rewards is None else list(answer.token_rewards)
            output.extra_fields["reward_extra_info"] = reward_info(chain.trajectory)
            report_of(chain, answer, self._context.engines).add_to(output.extra_fields)
            self._recorder.record(record_of(chain, answer))

    async def _ask_reward_loop(self, chains: Sequence[FinishedChain]) -> Sequence[Answer]:
        """Have chains of one prompt scored by one process of the reward loop, together where there are several."""
        # verl chooses in this way too (experimental/agent_loop/agent_loop.py:_compute_score).
        worker = random.choice(self.reward_loop_worker_handles)
        messages = [
            ChainToScore.of(
                chain, turn_results(chain.trajectory), images_needed(chain.trajectory, self._context.settings)
            )
            for chain in chains
        ]
        # Longer than one chain may take: others may be scored before it.
        limit = 2.0 * self._context.settings.longest_chain
        answer = worker.compute_score.remote(DataProto(non_tensor_batch=ChainToScore.to_batch(messages)))
        try:
            return from_answers(await with_timeout(awaited(answer), limit))
        except TimeLimitExceeded:
            return [UnscoredChain(f"the reward loop gave no answer in {limit:.0f} s")] * len(chains)


class AgentFlyLoopManager(AgentLoopManagerTQ):  # type: ignore[misc, unused-ignore]
    """verl's manager with our workers, whose chains are on the disk before the metrics of their step are logged."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)
        self.agent_loop_workers_class = ray.remote(AgentFlyLoopWorker)
        settings = settings_of(self.config)
        self._evaluators = servers_of(settings)
        use_step_tracking(settings, self.drain_records)

    async def _init_agent_loop_workers(self) -> None:
        """Start the workers, as verl does; the trainer has loaded its checkpoint by now, and hands out nothing yet."""
        drop_leftovers()
        await super()._init_agent_loop_workers()

    def generate_sequences(self, prompts: TensorDict) -> None:
        """Hand out prompts, as verl does, once the evaluators that sleep during updates are awake.

        Args:
            prompts: of training or validation.

        Raises:
            TrainingError: an evaluator did not wake.
        """
        self._evaluators.wake()
        super().generate_sequences(prompts)

    def drain_records(self, limit: float) -> bool:
        """Wait until the chains that have finished are recorded by all workers.

        Args:
            limit: seconds.

        Returns:
            False if they were not, or a worker is gone.
        """
        try:
            answers = [worker.drain_records.remote(limit) for worker in self.agent_loop_workers]
            return all(ray.get(answers, timeout=limit + 1.0))
        except Exception:  # Ray's errors are of many classes, and none of them may end a run here
            return False


def drop_leftovers() -> None:
    """Take out of verl's queue what a checkpoint has brought back and no step may use.

    An asynchronous trainer saves the queue with each checkpoint. In it are the chains that this step was trained on,
    which are cleared only later (verl/trainer/ppo/v1/trainer_base.py:fit, 2 and 7), and the failure of an engine that
    died meanwhile: with that, no run could be resumed.
    """
    held = tq.kv_list() or {}
    if failed := list(held.get(EngineFailure.PARTITION, {})):
        tq.kv_clear(keys=failed, partition_id=EngineFailure.PARTITION)
    tags = held.get("train", {})
    prompts = {key for key, tag in tags.items() if tag.get("is_prompt", False)}
    if trained := [key for key in tags if key.split("_")[0] not in prompts]:
        tq.kv_clear(keys=trained, partition_id="train")


def record_of(chain: FinishedChain, answer: ScoredChain | None = None) -> Record:
    """Return a chain for the recorder.

    Args:
        chain: finished.
        answer: of the reward loop; None where the chain was lost.
    """
    trajectory, request = chain.trajectory, chain.request
    record = Record(trajectory, chain.store, request.step, request.row["index"], request.validate)
    return record if answer is None else replace(record, credit=answer.credit(trajectory.turns), audit=answer.audit)


def recorder_of(settings: TrainSettings, steps: int, reserved: Callable[[], int] = lambda: 0) -> ChainRecorder:
    """Return the recorder of a run.

    Args:
        settings: of the run.
        steps: training steps of the whole run.
        reserved: see `ImageBudget`.
    """
    kept = settings.images
    images = None if kept is None else ImageBudget(settings.image_dir, kept.max_bytes, steps, reserved)
    return ChainRecorder(settings.trajectory_log if settings.trajectories else None, images)
