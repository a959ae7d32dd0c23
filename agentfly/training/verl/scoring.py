"""Compute score, reward, credit by turn and audit of a finished chain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentfly.agents import EvaluationSetup, Trajectory, edit_sample, score_trajectory
from agentfly.datasets import EditTask
from agentfly.errors import EvaluatorError
from agentfly.evaluators import Reward, make_evaluator
from agentfly.evaluators.bootstrap import SUCCESS
from agentfly.evaluators.guarded import GuardedEvaluator
from agentfly.images import ImageStore
from agentfly.training.metrics.chain_report import turn_results
from agentfly.training.metrics.turn_credit import credit_turns, score_turns
from agentfly.training.recipe.settings import TrainSettings


@dataclass(frozen=True)
class Scoring:
    """What scoring a chain gave; score, reward and parts are on the trajectory.

    Attributes:
        token_rewards: one a response token, adding up to the reward; None where all of it goes to the last token.
        audit: the second evaluator's score (0 to 100); None where the chain was not audited, NaN
            where it could not be.
    """

    token_rewards: tuple[float, ...] | None = None
    audit: float | None = None


class ChainScorer:
    """Scores chains as a run's settings say.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self._settings = settings
        self._evaluator = GuardedEvaluator(make_evaluator(settings.evaluator), settings.guard)
        audit = settings.audit
        self._audit = None if audit is None else GuardedEvaluator(make_evaluator(audit.evaluator), audit.settings.guard)

    async def score(
        self,
        trajectory: Trajectory,
        task: EditTask,
        store: ImageStore,
        results: Sequence[str | None] = (),
        step: int = 0,
    ) -> Scoring:
        """Write score and reward on a chain.

        Args:
            trajectory: finished.
            task: what it was asked.
            store: with the images of the chain that `images_needed` names.
            results: handle after each turn; see `turn_results`.
            step: of training; chooses with the chain's id whether it is audited.

        Raises:
            EvaluatorError: it cannot be scored.
        """
        setup = EvaluationSetup(self._evaluator, self._settings.reward)
        await score_trajectory(trajectory, task, store, setup)
        return Scoring(
            await self._credit(trajectory, task, store, results), await self._second(trajectory, task, store, step)
        )

    async def _credit(
        self, trajectory: Trajectory, task: EditTask, store: ImageStore, results: Sequence[str | None]
    ) -> tuple[float, ...] | None:
        placement = self._settings.credit
        if placement is None or trajectory.tokens is None or trajectory.reward is None:
            return None
        # The answer is scored already, and is nearly always a turn's image, too: a judge is not asked twice of one.
        known = {trajectory.final_image: trajectory.score}
        fresh = list(dict.fromkeys(handle for handle in results if handle is not None and handle not in known))
        samples = [edit_sample(task, store.get(handle)) for handle in fresh]
        known |= zip(fresh, await score_turns(self._evaluator, samples), strict=True)
        scores = [None if handle is None else known[handle] for handle in results]
        reward = Reward(trajectory.reward, trajectory.reward_parts)
        spans = [(turn.start, turn.end) for turn in trajectory.turns]
        length = len(trajectory.tokens.response_ids)
        return credit_turns(scores, spans, reward, length, placement=placement).token_rewards

    async def _second(self, trajectory: Trajectory, task: EditTask, store: ImageStore, step: int) -> float | None:
        audit = self._settings.audit
        if self._audit is None or audit is None or not audit.settings.chooses(trajectory.id, step):
            return None
        result = store.get(trajectory.final_image) if trajectory.final_image else None
        try:
            return (await self._audit.evaluate(edit_sample(task, result))).value
        except EvaluatorError:
            return math.nan


def images_needed(trajectory: Trajectory, settings: TrainSettings) -> set[str]:
    """Handles of the images without which a chain cannot be scored."""
    results = turn_results(trajectory) if settings.credit is not None else []
    return {handle for handle in (trajectory.final_image, *results) if handle is not None}


def reward_info(trajectory: Trajectory) -> dict[str, Any]:
    """What verl logs of a chain's reward, flat."""
    records = trajectory.tool_records
    return {
        "score": float(trajectory.score or 0.0),
        "success": float((trajectory.score or 0.0) >= SUCCESS),
        **{f"part/{name}": float(value) for name, value in trajectory.reward_parts.items()},
        "tool_calls": float(len(records)),
        "failed_calls": float(sum(record.error is not None for record in records)),
        "answered": float(trajectory.answered),
    }


def apply_scores(trajectory: Trajectory, scores: Mapping[str, Any]) -> None:
    """Write what `scores_of` took from a copy of the trajectory in another process."""
    trajectory.score, trajectory.aspects = scores["score"], scores["aspects"]
    trajectory.reward, trajectory.reward_parts = scores["reward"], scores["parts"]


def scores_of(trajectory: Trajectory) -> dict[str, Any]:
    """Score, aspects, reward and parts of a scored trajectory."""
    return {
        "score": trajectory.score,
        "aspects": trajectory.aspects,
        "reward": trajectory.reward,
        "parts": trajectory.reward_parts,
    }
