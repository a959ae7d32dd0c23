"""verl's reward loop with our evaluators: a chain comes in, its score, reward and credit go out.

verl takes the class from `reward.reward_manager`. It runs in processes of its own (`reward.num_workers`), each of which
scores many chains at once.
"""

from __future__ import annotations

import logging

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from agentfly.training.launch.log_reader import log_to_run
from agentfly.training.recipe.compose import settings_of
from agentfly.training.recipe.verl_config import VerlConfig
from agentfly.training.verl.messages import ChainToScore, to_answers
from agentfly.training.verl.scoring import ChainScorer, score_chains

logger = logging.getLogger(__name__)


class AgentFlyRewardManager(RewardManagerBase):  # type: ignore[misc, unused-ignore]
    """Scores the chains of `agentfly.training.verl.loop_worker`.

    Args:
        config: the complete configuration.
        tokenizer, compute_score: verl's; the base class keeps them.
        **unused: verl's further arguments.
    """

    def __init__(self, config: VerlConfig, tokenizer: object, compute_score: object, **unused: object) -> None:
        log_to_run()
        super().__init__(config, tokenizer, compute_score)
        self._scorer = ChainScorer(settings_of(config))

    async def run_single(self, data: DataProto) -> dict[str, object]:
        """Score the chains of a batch together; a chain that cannot be scored gets a reason, and never a number.

        verl hands over what the agent-loop worker sent, whole, and returns the dict to it
        (verl/experimental/reward_loop/reward_loop.py:compute_score). Its own managers take the last row of it; here the
        rows are the chains of one prompt.
        """
        return to_answers(await score_chains(self._scorer, ChainToScore.from_batch(data.non_tensor_batch)))
