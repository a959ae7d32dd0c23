"""From scored chains to the metrics of their step: the report of a worker, and the trainer's view of all reports.

Nothing here needs verl, so that `agentfly try` shows the metrics that training would log.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from agentfly.errors import TrainingError
from agentfly.evaluators import Reward
from agentfly.training.metrics.chain_report import facts_of, intervals_of
from agentfly.training.metrics.health import HealthMonitor, health_settings
from agentfly.training.metrics.judge_audit import JudgeAudit
from agentfly.training.metrics.reward_groups import reward_metrics
from agentfly.training.metrics.tool_stalls import stall_in_words, wait_metrics
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.verl.messages import CacheCounts, ChainReport, FinishedChain, ScoredChain
from agentfly.training.verl.parity import digest
from agentfly.vision import Engines
from agentfly.vision.cached_engines import cache_stats

logger = logging.getLogger(__name__)


def report_of(chain: FinishedChain, answer: ScoredChain, engines: Engines) -> ChainReport:
    """Return the report of a scored chain for the metrics of its step.

    Args:
        chain: scored; one that is trained on has exact tokens, and their digest is in the report.
        answer: of the reward loop.
        engines: of this process; the counters of their cache go into the report.
    """
    trajectory, stats = chain.trajectory, cache_stats(engines)
    assert trajectory.reward is not None
    tokens, aspects = trajectory.tokens, answer.aspects
    # Within a composite evaluator the name of the part stands before it.
    alike = [value for name, value in aspects.items() if name.split("/")[-1] == "agreement"]
    return ChainReport(
        id=trajectory.id,
        group=trajectory.group_id,
        reward=trajectory.reward,
        parts=trajectory.reward_parts,
        audit=answer.audit,
        facts=facts_of(trajectory, chain.store),
        intervals=intervals_of(trajectory),
        stop=trajectory.stop_reason.value if trajectory.stop_reason else "",
        digest="" if tokens is None else digest(tokens.ids, tokens.mask),
        row=chain.request.row["index"],
        cache=None if stats is None else CacheCounts(os.getpid(), stats.hits, stats.misses),
        relative=answer.relative,
        agreement=alike[0] if answer.relative and alike else None,
    )


class StepObserver:
    """Computes the metrics of one step after another, and stops a run whose health says so.

    Args:
        settings: of the run.
        past: metrics of the steps before, in order, where the run continues from a checkpoint: a breach that lasts over
            several steps goes on lasting.
    """

    def __init__(self, settings: TrainSettings, past: Iterable[Mapping[str, float]] = ()) -> None:
        self._health = HealthMonitor(health_settings(settings.health))
        self._relative = settings.scores_groups
        audit = settings.audit
        self._audit = None if audit is None else JudgeAudit(audit.settings, relative=self._relative)
        self._cache = CacheMeter()
        for metrics in past:
            self._health.remember(metrics)
            if self._audit is not None:
                self._audit.remember(metrics)

    def observe(self, chains: Sequence[ChainReport], step: int) -> dict[str, float]:
        """Return the metrics of a step.

        Args:
            chains: reports of the chains that are trained on.
            step: its number.

        Raises:
            TrainingError: no chain of the step can be trained on, or a limit of the health monitor says stop.
        """
        if not chains:
            raise TrainingError(
                f"no chain of step {step} was sampled and scored; the lines of the log above this one say why of each"
            )
        stops = Counter(chain.stop for chain in chains)
        rewards = [Reward(chain.reward, chain.parts) for chain in chains]
        metrics = reward_metrics(rewards, [chain.group for chain in chains])
        if self._relative:
            metrics["reward/group/ranked"] = sum(chain.relative for chain in chains) / len(chains)
            if alike := [chain.agreement for chain in chains if chain.agreement is not None]:
                metrics["reward/group/agreement"] = sum(alike) / len(alike)
        health = self._health.observe([chain.facts for chain in chains], step)
        metrics |= health.metrics | {f"chains/stop/{reason}": float(count) for reason, count in stops.items()}
        if self._audit is not None:
            metrics |= self._audit.compare([(chain.parts["edit"], chain.audit) for chain in chains], step).metrics
        metrics |= self._cache.read(chain.cache for chain in chains if chain.cache is not None)
        waits = wait_metrics(interval for chain in chains for interval in chain.intervals)
        if (words := stall_in_words(waits)) is not None:
            logger.info("step %d: %s", step, words)
        health.raise_if_stopped()
        return metrics | waits


class CacheMeter:
    """The tool caches of all workers, step by step, from counts that never go down."""

    def __init__(self) -> None:
        self._before: dict[int, CacheCounts] = {}

    def read(self, counts: Iterable[CacheCounts]) -> dict[str, float]:
        """Return `cache/hits`, `cache/misses` and `cache/hit_rate` of a step; nothing if no cache was used in it.

        Args:
            counts: of each chain, as its end found them.
        """
        newest: dict[int, CacheCounts] = {}
        for count in counts:
            nothing = CacheCounts(count.process, 0, 0)
            newest[count.process] = max(newest.get(count.process, nothing), count, key=lambda c: c.hits + c.misses)
        before = [self._before.get(process, CacheCounts(process, 0, 0)) for process in newest]
        hits = sum(count.hits for count in newest.values()) - sum(count.hits for count in before)
        misses = sum(count.misses for count in newest.values()) - sum(count.misses for count in before)
        self._before |= newest
        if hits + misses <= 0:
            return {}
        return {"cache/hits": float(hits), "cache/misses": float(misses), "cache/hit_rate": hits / (hits + misses)}
