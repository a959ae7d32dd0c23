"""verl's reward loop with our evaluators: a chain comes in, its score, reward and credit go out.

verl takes the class from `reward.reward_manager`. It runs in processes of its own (`reward.num_workers`), where many
chains are scored at once.
"""

from __future__ import annotations

import logging
from typing import Any

from PIL import Image
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from agentfly.agents import Trajectory
from agentfly.errors import EvaluatorError
from agentfly.images import ImageStore
from agentfly.training.launch.log_reader import log_to_run
from agentfly.training.recipe.compose import settings_of
from agentfly.training.recipe.verl_dataset import read_task
from agentfly.training.verl.scoring import ChainScorer, scores_of

logger = logging.getLogger(__name__)


class AgentFlyRewardManager(RewardManagerBase):  # type: ignore[misc, unused-ignore]
    """Scores the chains of `agentfly.training.verl.loop_worker`."""

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, **unused: Any) -> None:
        log_to_run()
        super().__init__(config, tokenizer, compute_score)
        self._scorer = ChainScorer(settings_of(config))

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Score one chain; one that cannot be scored is told as such, and never gets a number."""
        return await score_payload(self._scorer, data.non_tensor_batch["chain"][0])


async def score_payload(scorer: ChainScorer, payload: dict[str, Any]) -> dict[str, Any]:
    """Score what `agentfly.training.verl.loop_worker.payload_of` packed.

    Returns:
        `reward_score`, `scores`, `token_rewards` and `audit`; or `not_scored` with the reason.
    """
    trajectory, store = Trajectory.from_json(payload["trajectory"]), ImageStore()
    for array in payload["images"].values():
        store.put(Image.fromarray(array))
    try:
        task = read_task(payload["row"])
        scoring = await scorer.score(trajectory, task, store, payload["results"], payload["step"])
    except EvaluatorError as fault:
        return {"not_scored": str(fault)}
    except Exception as fault:  # a bug on one chain must not end the others
        logger.exception("scoring chain %s failed", trajectory.id)
        return {"not_scored": f"{type(fault).__name__}: {fault}"}
    return {
        "reward_score": trajectory.reward,
        "scores": scores_of(trajectory),
        "token_rewards": None if scoring.token_rewards is None else list(scoring.token_rewards),
        "audit": scoring.audit,
    }
