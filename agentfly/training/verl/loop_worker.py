"""verl's worker of agent loops, with four things of ours: exact image inputs, scoring apart, a log of every chain,
and a report of every chain that is lost.

verl takes the class from `actor_rollout_ref.rollout.agent.agent_loop_manager_class`. A chain is scored by verl's reward
loop, in processes of its own, while other chains go on.
"""

from __future__ import annotations

import os
import random
from dataclasses import asdict
from typing import Any

import numpy as np
import ray
import torch
from verl import DataProto
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from agentfly.agents.trajectory_file import TrajectoryLine, append_line
from agentfly.aio import TimeLimitExceeded, with_timeout
from agentfly.images import ImageStore
from agentfly.training.launch.log_reader import log_to_run
from agentfly.training.metrics.chain_report import facts_of, intervals_of, turn_results
from agentfly.training.verl.agent_loop import ChainOutput, FinishedChain, shared
from agentfly.training.verl.chain_faults import ChainFault, report
from agentfly.training.verl.parity import ImageInputs, check_images, digest
from agentfly.training.verl.scoring import apply_scores, images_needed, reward_info
from agentfly.vision.cached_engines import cache_stats

# verl decorates its worker with `ray.remote`, and Ray refuses to inherit from what that gives.
_Worker: Any = AgentLoopWorkerTQ.__ray_metadata__.modified_class
PAYLOAD = "chain"


class AgentFlyLoopWorker(_Worker):  # type: ignore[misc, unused-ignore]
    """Runs chains; see the module."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        # Its tensors are small, and threads that spin at the end of each operation take the core of the rollout engine.
        torch.set_num_threads(1)
        log_to_run()
        super().__init__(*arguments, **named)
        self._images = ImageInputs(shared(self.config, self.processor).codec)

    async def _run_agent_loop(self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any) -> Any:
        """Run, score and hand over one chain; report one that is lost, or verl would only train on what is left."""
        try:
            return await super()._run_agent_loop(sampling_params, trajectory, **kwargs)
        except Exception as fault:
            if isinstance(fault, ChainFault):
                log_chain(fault.chain)
            await report(fault, kwargs["uid"], kwargs["session_id"], validate=trajectory["validate"])
            raise

    def _compute_multi_modal_inputs(self, output: ChainOutput, input_ids: Any) -> dict[str, Any]:
        """Each image through the processor once; verl runs all of them again for every chain, from decoded text."""
        trajectory, images = output.chain.trajectory, (output.multi_modal_data or {}).get("images", [])
        inputs = self._images.of(trajectory.images, images, input_ids)
        ids = input_ids.flatten().tolist()
        check_images(trajectory, ids, inputs.get("image_grid_thw"), self._images.codec)
        return inputs

    async def _compute_score(self, outputs: list[ChainOutput], kwargs: dict[str, Any]) -> None:
        """Score chains through verl's reward loop; a chain that cannot be scored does not reach the trainer."""
        for output in outputs:
            await self._score(output)

    async def _score(self, output: ChainOutput) -> None:
        chain = output.chain
        # verl chooses in this way too (experimental/agent_loop/agent_loop.py:_compute_score).
        worker = random.choice(self.reward_loop_worker_handles)
        payload = np.empty(1, dtype=object)
        payload[0] = payload_of(chain)
        asked = worker.compute_score.remote(DataProto(non_tensor_batch={PAYLOAD: payload}))
        trajectory, limit = chain.trajectory, 2.0 * chain.shared.settings.longest_chain
        try:
            # Longer than one chain may take: others may be scored before it.
            result = await with_timeout(_result(asked), limit)
        except TimeLimitExceeded:
            result = {"not_scored": f"the reward loop gave no answer in {limit:.0f} s"}
        if result.get("not_scored") is not None:
            trajectory.reward_error = result["not_scored"]
            raise ChainFault("not_scored", f"chain {trajectory.id} is not scored: {trajectory.reward_error}", chain)
        apply_scores(trajectory, result["scores"])
        output.reward_score, output.token_rewards = result["reward_score"], result["token_rewards"]
        output.extra_fields["reward_extra_info"] = reward_info(trajectory)
        output.extra_fields["agentfly"] = told(chain, result["audit"])
        log_chain(chain)


async def _result(asked: Any) -> Any:
    return await asked


class AgentFlyLoopManager(AgentLoopManagerTQ):  # type: ignore[misc, unused-ignore]
    """verl's manager with our workers."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.agent_loop_workers_class = ray.remote(AgentFlyLoopWorker)


def payload_of(chain: FinishedChain) -> dict[str, Any]:
    """What the process that scores needs of a chain: images as arrays, which Ray passes without a copy."""
    needed = images_needed(chain.trajectory, chain.shared.settings)
    return {
        "row": dict(chain.row),
        "step": chain.step,
        "trajectory": chain.trajectory.to_json(),
        "results": turn_results(chain.trajectory),
        "images": {handle: np.asarray(chain.store.get(handle)) for handle in needed},
    }


def told(chain: FinishedChain, audit: float | None) -> dict[str, Any]:
    """What a chain tells the trainer beside its tokens; see `agentfly.training.verl.step_metrics`."""
    trajectory = chain.trajectory
    assert trajectory.tokens is not None
    return {
        "id": trajectory.id,
        "group": trajectory.group_id,
        "reward": trajectory.reward,
        "parts": dict(trajectory.reward_parts),
        "audit": audit,
        "facts": asdict(facts_of(trajectory, chain.store)),
        "intervals": [asdict(each) for each in intervals_of(trajectory)],
        "stop": trajectory.stop_reason.value if trajectory.stop_reason else "",
        "digest": digest(trajectory.tokens.ids, trajectory.tokens.mask),
        "cache": _cache(chain),
    }


def _cache(chain: FinishedChain) -> dict[str, int] | None:
    """What the tool cache of this process has done so far; None without one."""
    stats = cache_stats(chain.shared.engines)
    return None if stats is None else {"process": os.getpid(), "hits": stats.hits, "misses": stats.misses}


def log_chain(chain: FinishedChain) -> None:
    """Append a chain to the run's `trajectories.jsonl`, and its images to `images/`."""
    settings, trajectory = chain.shared.settings, chain.trajectory
    if settings.images:
        kept = ImageStore(settings.image_dir)
        made = {handle for record in trajectory.tool_records for handle in record.images}
        for handle in {*trajectory.images, *made, *filter(None, [trajectory.final_image])}:
            kept.put(chain.store.get(handle))
    if settings.trajectories:
        append_line(
            settings.trajectory_log, TrajectoryLine.of_chain(trajectory, step=chain.step, validate=chain.validate)
        )
