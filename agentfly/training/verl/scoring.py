"""Score, reward, credit by turn and audit of a finished chain."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from agentfly.agents import EvaluationSetup, Trajectory, edit_sample, score_trajectory
from agentfly.agents.reward_function import import_reward
from agentfly.datasets import EditTask
from agentfly.errors import EvaluatorError, ImageError
from agentfly.evaluators import EditSample, Evaluator, NotScored, Reward, Score, make_evaluator
from agentfly.evaluators.bootstrap import SUCCESS
from agentfly.evaluators.guarded import GuardedEvaluator
from agentfly.images import ImageStore
from agentfly.training.metrics.chain_report import turn_results
from agentfly.training.metrics.turn_credit import credit_turns, score_turns
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.verl_dataset import read_task
from agentfly.training.verl.messages import ChainToScore, ScoredChain, UnscoredChain

logger = logging.getLogger(__name__)


class ChainScorer:
    """Scores chains by the settings of a run.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self._settings = settings
        self._evaluator = GuardedEvaluator(make_evaluator(settings.evaluator), settings.guard)
        function = None if settings.reward_function is None else import_reward(settings.reward_function)
        self._setup = EvaluationSetup(self._evaluator, settings.reward, function, settings.guard.timeout)
        audit = settings.audit
        self._audit = None if audit is None else GuardedEvaluator(make_evaluator(audit.evaluator), audit.settings.guard)

    async def score(
        self,
        trajectory: Trajectory,
        task: EditTask,
        store: ImageStore,
        results: Sequence[str | None] = (),
        step: int = 0,
        given: Evaluator | None = None,
    ) -> ScoredChain:
        """Write score and reward on a trajectory, and return them with credit and audit.

        Args:
            trajectory: finished.
            task: the task of the chain.
            store: with the images of the chain that `images_needed` names.
            results: handle after each turn; see `turn_results`.
            step: of training; chooses with the chain's id if it is audited.
            given: has the score of the result already; the run's evaluator when None.

        Raises:
            EvaluatorError: it cannot be scored.
        """
        setup = self._setup if given is None else replace(self._setup, evaluator=given)
        await score_trajectory(trajectory, task, store, setup)
        return ScoredChain(
            trajectory.score,
            trajectory.aspects,
            trajectory.reward,
            trajectory.reward_parts,
            await self._credit(trajectory, task, store, results),
            await self._second_score(trajectory, task, store, step),
        )

    async def score_results(self, results: Sequence[tuple[EditTask, Image.Image | None]]) -> list[Score | NotScored]:
        """Return the scores of the results of one task, compared with each other where the evaluator does that.

        Args:
            results: the task, and the image of each chain.
        """
        samples: dict[int, EditSample] = {}
        scores: dict[int, Score | NotScored] = {}
        for number, (task, image) in enumerate(results):
            try:
                samples[number] = edit_sample(task, image)
            except ImageError as fault:
                scores[number] = NotScored(str(fault))
        if samples:
            try:
                found = await self._evaluator.evaluate_group(list(samples.values()))
            except EvaluatorError as fault:
                found = [NotScored(str(fault))] * len(samples)
            scores |= zip(samples, found, strict=True)
        return [scores[number] for number in range(len(results))]

    async def _credit(
        self, trajectory: Trajectory, task: EditTask, store: ImageStore, results: Sequence[str | None]
    ) -> tuple[float, ...] | None:
        placement = self._settings.credit
        if placement is None or trajectory.tokens is None or trajectory.reward is None:
            return None
        # The answer is scored already, and is nearly always a turn's image, too: a judge is not asked twice about one.
        known = {trajectory.final_image: trajectory.score}
        fresh = list(dict.fromkeys(handle for handle in results if handle is not None and handle not in known))
        samples = [edit_sample(task, store.get(handle)) for handle in fresh]
        known |= zip(fresh, await score_turns(self._evaluator, samples), strict=True)
        scores = [None if handle is None else known[handle] for handle in results]
        reward = Reward(trajectory.reward, trajectory.reward_parts)
        spans = [(turn.start, turn.end) for turn in trajectory.turns]
        length = len(trajectory.tokens.response_ids)
        return credit_turns(scores, spans, reward, length, placement=placement).token_rewards

    async def _second_score(self, trajectory: Trajectory, task: EditTask, store: ImageStore, step: int) -> float | None:
        audit = self._settings.audit
        if self._audit is None or audit is None or not audit.settings.chooses(trajectory.id, step):
            return None
        result = store.get(trajectory.final_image) if trajectory.final_image else None
        try:
            return (await self._audit.evaluate(edit_sample(task, result))).value
        except (EvaluatorError, ImageError):  # a task without images has a reward all the same
            return math.nan


@dataclass(frozen=True)
class _Known:
    """Stands for the evaluator of a result that has been scored with its group."""

    score: Score | NotScored

    async def evaluate(self, sample: EditSample) -> Score:
        """Return the score; see `Evaluator.evaluate`."""
        if isinstance(self.score, NotScored):
            raise EvaluatorError(self.score.reason)
        return self.score


async def score_chain(
    scorer: ChainScorer, chain: ChainToScore, known: Score | NotScored | None = None
) -> ScoredChain | UnscoredChain:
    """Score a chain that came from another process.

    Args:
        scorer: of the run.
        chain: as the agent-loop worker packed it.
        known: the score of its result, where it was scored with its group.
    """
    trajectory, store = chain.unpack()
    given = None if known is None else _Known(known)
    try:
        scored = await scorer.score(trajectory, read_task(chain.row), store, chain.results, chain.step, given)
    except EvaluatorError as fault:
        return UnscoredChain(str(fault))
    except Exception as fault:  # a bug on one chain must not end the others
        logger.exception("scoring chain %s failed", trajectory.id)
        return UnscoredChain(f"{type(fault).__name__}: {fault}")
    return replace(scored, relative=isinstance(known, Score) and known.relative)


async def score_chains(scorer: ChainScorer, chains: Sequence[ChainToScore]) -> list[ScoredChain | UnscoredChain]:
    """Score chains of one prompt that came from another process, together where there are several.

    Args:
        scorer: of the run.
        chains: as the agent-loop worker packed them. One chain alone gets its single score.
    """
    if len(chains) == 1:
        return [await score_chain(scorer, chains[0])]
    results = []
    for chain in chains:
        trajectory, store = chain.unpack()
        image = store.get(trajectory.final_image) if trajectory.final_image else None
        results.append((read_task(chain.row), image))
    try:
        scores = await scorer.score_results(results)
    except Exception as fault:  # a bug on one group must not end the others
        logger.exception("scoring the %d chains of a prompt failed", len(chains))
        return [UnscoredChain(f"{type(fault).__name__}: {fault}")] * len(chains)
    pairs = zip(chains, scores, strict=True)
    return list(await asyncio.gather(*(score_chain(scorer, chain, score) for chain, score in pairs)))


def images_needed(trajectory: Trajectory, settings: TrainSettings) -> set[str]:
    """Return the handles of the images without which a chain cannot be scored.

    Args:
        trajectory: finished.
        settings: of the run; with credit by turn, the images of all turns are needed, and a reward function may ask
            for the source.
    """
    results = turn_results(trajectory) if settings.credit is not None else []
    source = trajectory.images[:1] if settings.reward_function is not None else []
    return {handle for handle in (trajectory.final_image, *results, *source) if handle is not None}


def reward_info(trajectory: Trajectory) -> dict[str, float]:
    """Return the numbers that verl logs beside a chain's reward."""
    records = trajectory.tool_records
    return {
        "score": float(trajectory.score or 0.0),
        "success": float((trajectory.score or 0.0) >= SUCCESS),
        **{f"part/{name}": float(value) for name, value in trajectory.reward_parts.items()},
        "tool_calls": float(len(records)),
        "look_calls": float(sum(record.looks for record in records)),
        "failed_calls": float(sum(record.error is not None for record in records)),
        "answered": float(trajectory.answered),
    }
