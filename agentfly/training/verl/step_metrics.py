"""Compute the step metrics from the reports of the chains: rewards by part and group, health, audit, and waiting."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentfly.errors import TrainingError
from agentfly.evaluators import Reward
from agentfly.training.metrics.chain_report import Interval
from agentfly.training.metrics.health import ChainFacts, HealthMonitor, health_settings
from agentfly.training.metrics.judge_audit import JudgeAudit
from agentfly.training.metrics.reward_groups import reward_metrics
from agentfly.training.metrics.tool_stalls import blame, wait_metrics
from agentfly.training.recipe.settings import TrainSettings

logger = logging.getLogger(__name__)


class StepObserver:
    """Judges step after step.

    Args:
        settings: of the run.
        past: metrics of the steps before, in order, where the run goes on from a checkpoint: what lasts over several
            steps goes on lasting.
    """

    def __init__(self, settings: TrainSettings, past: Iterable[Mapping[str, float]] = ()) -> None:
        self._health = HealthMonitor(health_settings(settings.health))
        self._audit = None if settings.audit is None else JudgeAudit(settings.audit.settings)
        self._cache = CacheMeter()
        for metrics in past:
            self._health.remember(metrics)
            if self._audit is not None:
                self._audit.remember(metrics)

    def observe(self, chains: Sequence[Mapping[str, Any]], step: int) -> dict[str, float]:
        """Metrics of a step.

        Args:
            chains: what `agentfly.training.verl.loop_worker.told` gave of each.
            step: its number.

        Raises:
            TrainingError: no chain of the step can be trained on, or a limit of the health monitor says stop.
        """
        if not chains:
            raise TrainingError(
                f"no chain of step {step} was sampled and scored; the lines of the log above this one say why of each"
            )
        stops = Counter(chain["stop"] for chain in chains)
        rewards = [Reward(chain["reward"], chain["parts"]) for chain in chains]
        metrics = reward_metrics(rewards, [chain["group"] for chain in chains])
        health = self._health.observe([ChainFacts(**chain["facts"]) for chain in chains], step)
        metrics |= health.metrics | {f"chains/stop/{reason}": float(count) for reason, count in stops.items()}
        if self._audit is not None:
            pairs = [(chain["parts"]["edit"], chain["audit"]) for chain in chains]
            metrics |= self._audit.compare(pairs, step).metrics
        metrics |= self._cache.read(chain["cache"] for chain in chains if chain["cache"] is not None)
        waits = wait_metrics(Interval(**each) for chain in chains for each in chain["intervals"])
        if (words := blame(waits)) is not None:
            logger.info("step %d: %s", step, words)
        health.raise_if_stopped()
        return metrics | waits


class CacheMeter:
    """The tool caches of all workers, step by step, from counts that never go down."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[int, int]] = {}

    def read(self, counts: Iterable[Mapping[str, int]]) -> dict[str, float]:
        """`cache/hits`, `cache/misses` and `cache/hit_rate` of a step; nothing where no cache was asked.

        Args:
            counts: `process`, `hits` and `misses` so far, as each chain found them at its end.
        """
        newest: dict[int, tuple[int, int]] = {}
        for count in counts:
            process, seen = count["process"], (count["hits"], count["misses"])
            newest[process] = max(newest.get(process, (0, 0)), seen, key=sum)
        hits, misses = (
            sum(seen[place] - self._before.get(process, (0, 0))[place] for process, seen in newest.items())
            for place in (0, 1)
        )
        self._before |= newest
        if hits + misses <= 0:
            return {}
        return {"cache/hits": float(hits), "cache/misses": float(misses), "cache/hit_rate": hits / (hits + misses)}
