"""verl's replay buffer with a shorter poll interval for small models, and with metrics of the chains that it returns.

verl takes the class from `trainer.v1.sampler.custom_sampler`; it lives in the process of the trainer, and the metrics
that it returns with a batch are logged with those of the step. A batch that has lost too many chains to faults is not
returned: another one is sampled in its place (see `agentfly.training.verl.chain_faults`). With `agentfly.refill`,
groups whose chains all have the same reward are replaced while the batch is sampled.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import transfer_queue as tq
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from agentfly.errors import TrainingError
from agentfly.training.launch.evaluator_sleep import servers_of
from agentfly.training.launch.log_reader import SAMPLED, log_to_run, steps_so_far
from agentfly.training.launch.stack_dump import dump_on_request
from agentfly.training.metrics.reward_groups import GroupStatistics, group_statistics, replaced_metrics
from agentfly.training.metrics.tool_price import spent_metrics
from agentfly.training.recipe.compose import settings_of
from agentfly.training.recipe.verl_config import HasSettings
from agentfly.training.verl import turn_grpo  # noqa: F401  (registers the estimator in the trainer's process)
from agentfly.training.verl.chain_faults import in_words, loss_metrics, why_unfit
from agentfly.training.verl.curriculum import observe_chains
from agentfly.training.verl.messages import ChainReport, EngineFailure, LostChain, Partitions
from agentfly.training.verl.parity import digest
from agentfly.training.verl.protocols import SampledBatch
from agentfly.training.verl.step_metrics import StepObserver

logger = logging.getLogger(__name__)
# verl's message about `hybrid_engine=false` has a keyword that `logging` does not know, and would end the run
# (verl/trainer/ppo/v1/trainer_separate_async.py:181). The trainer makes its buffer before that line.
logging.getLogger("verl.trainer.ppo.v1.trainer_separate_async").setLevel(logging.WARNING)

POLL_SECONDS = 0.05
_FIELDS = ["extra_fields", "input_ids", "prompts", "response_mask"]
# Groups that are to be evicted, as verl's buffer passes them on: stale ones, those without variance, failed ones, and
# the number of those without variance by their reward.
Reasons: TypeAlias = tuple[set[str], set[str], set[str], Counter[float]]


class _NothingLeft(Exception):
    """Every chain of the prompts that were chosen for a batch is lost."""


class _Watchful:
    """Polls for finished rollouts 20 times a second, and judges and observes each training batch.

    verl polls every 2.0 s and has no setting for it (verl/trainer/ppo/v1/replay_buffer.py:140), which is most of a step
    when a rollout takes a second.
    """

    _replaces_lost = False  # verl puts another prompt in the place of each that has lost a chain
    # verl's, by partition: chains by key, prompts of finished groups, and what is known of these.
    partitions: dict[str, dict[str, dict[str, object]]]
    finished_keys: dict[str, set[str]]
    _dapo_classification_cache: dict[str, dict[str, GroupStatistics]]
    refill_fn: Callable[[int], object]
    _clear_groups: Callable[[str, set[str]], None]

    def __init__(self, *args: object, sampler_kwargs: HasSettings, **kwargs: object) -> None:
        log_to_run(notices=True)
        named = {"sampler_kwargs": sampler_kwargs, "poll_interval": POLL_SECONDS, **kwargs}
        super().__init__(*args, **named)
        settings = settings_of(sampler_kwargs)
        self._limits, self._refill = settings.lost_chains, settings.refill
        self._servers = servers_of(settings)
        self._servers.sleep()
        self._observer = StepObserver(settings, steps_so_far(settings.metrics_log))
        self._validation_losses: dict[str, float] = {}
        self._prompts = 0  # of the training batch that is being sampled
        self._replaced: list[GroupStatistics] = []  # groups of that batch
        self._discarded: list[ChainReport] = []  # chains that were sampled for it and are not in it
        dump_on_request()

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[SampledBatch, dict[str, object]]:
        """Return a batch and its metrics; see `ReplayBuffer.sample`.

        Args:
            global_steps: of the trainer.
            partition_id: of verl's queue: "train" or "val".
            batch_size: number of prompts.

        Raises:
            TrainingError: a rollout engine died, or too many chains were lost.
        """
        if partition_id == "train":
            return self._sample_to_train(global_steps, batch_size)
        return self._sample_to_validate(global_steps, partition_id, batch_size)

    def _sample_to_train(self, step: int, prompts: int) -> tuple[SampledBatch, dict[str, object]]:
        limits, all_lost = self._limits, list[LostChain]()
        self._replaced.clear()
        for attempt in range(1, limits.attempts + 1):
            self._prompts = prompts
            batch, metrics = self._sample_finished(step, "train", prompts)
            chains = _in_order(batch, _reports(batch))
            lost = self._take_lost(validate=False)
            all_lost += lost
            kept: dict[str, list[bool]] = {}
            for key, chain in zip(batch.keys, chains, strict=True):
                kept.setdefault(key.split("_")[0], []).append(chain.facts.answered)
            unfit = why_unfit(kept, lost, limits.share, replaced=self._replaces_lost)
            if unfit is None:
                self._servers.sleep()
                logger.info("%s %d", SAMPLED, step)
                losses = loss_metrics(all_lost, len(chains))
                observed = self._observer.observe(chains, step)
                again = {"chains/sampled_again": float(attempt - 1)}
                before, self._validation_losses = self._validation_losses, {}
                sampled = self._sampling_metrics(chains, step)
                timings = self._servers.take_metrics()
                return batch, {**metrics, **before, **observed, **losses, **again, **sampled, **timings}
            self._discarded += chains
            if attempt < limits.attempts:
                logger.warning("step %d is sampled again in %g s and not trained on: %s", step, limits.pause, unfit)
                time.sleep(limits.pause)
                if batch.keys:
                    tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)
                self.refill_fn(prompts)
        raise TrainingError(f"step {step} was sampled {limits.attempts} times and never fit to be trained on: {unfit}")

    def _sampling_metrics(self, chains: list[ChainReport], step: int) -> dict[str, float]:
        """Return the metrics of all that was sampled for a step, and report it to the curriculum."""
        discarded, self._discarded = self._discarded, []
        spent = spent_metrics(*([each for chain in which for each in chain.intervals] for which in (chains, discarded)))
        replaced = {} if self._refill is None else replaced_metrics(self._replaced, len({c.group for c in chains}))
        return {**spent, **replaced, **observe_chains([*chains, *discarded], step)}

    def _sample_to_validate(self, step: int, partition_id: str, prompts: int) -> tuple[SampledBatch, dict[str, object]]:
        batch, metrics = self._sample_finished(step, partition_id, prompts)
        logger.info("%s %d", SAMPLED, step)
        lost = self._take_lost(validate=True)
        if not batch.keys:
            raise TrainingError(f"no chain of the validation is left: {in_words(lost)}")
        if lost:
            logger.warning("the validation of step %d is without %d chains: %s", step, len(lost), in_words(lost))
        losses = loss_metrics(lost, len(batch.keys))
        # verl drops the metrics of a batch to validate; the next step's metrics carry them.
        self._validation_losses = {f"validation/{name}": value for name, value in losses.items()}
        return batch, metrics

    def _sample_finished(self, step: int, partition_id: str, prompts: int) -> tuple[SampledBatch, dict[str, object]]:
        """Return verl's batch and metrics; an empty batch where no chain of it is left."""
        try:
            return super().sample(step, partition_id, prompts)  # type: ignore[misc]
        except _NothingLeft:
            return tq.KVBatchMeta(partition_id=partition_id, keys=[], tags=[]), {}

    def _select_prompt_uids(
        self, partition_id: str, sampleable_keys: set[str], batch_size: int
    ) -> tuple[list[str], dict[str, dict[str, object]], dict[str, int]]:
        """Return verl's selection; verl has an error of its own, and no way back, for prompts without any chain."""
        chosen, held, steps = super()._select_prompt_uids(partition_id, sampleable_keys, batch_size)  # type: ignore[misc]
        if not {key.split("_")[0] for key in held} & set(chosen):
            self._clear_groups(partition_id, set(chosen))
            raise _NothingLeft
        return chosen, held, steps

    def _dapo_filtered_keys(self, partition_id: str) -> tuple[set[str], Counter[float]]:
        """Return the finished groups that are to be replaced, and their number by mean reward.

        verl leaves it to the buffers of others which groups these are (verl/trainer/ppo/v1/trainer_base.py:162). Its
        own takes those of exactly equal rewards, and has no limit.
        """
        refill = self._refill
        if refill is None or partition_id != "train":
            return set(), Counter()
        left = math.ceil(refill.most * self._prompts) - len(self._replaced)
        known = self._dapo_classification_cache[partition_id]
        finished = self.finished_keys[partition_id]
        for uid in known.keys() - finished:
            del known[uid]
        reports = self._reports_of(partition_id, finished - known.keys())
        groups = group_statistics([report.reward for _, report in reports], [uid for uid, _ in reports])
        known |= {str(group.group): group for group in groups}
        flat = [uid for uid, group in known.items() if group.std < refill.spread][: max(0, left)]
        return set(flat), Counter(known[uid].mean for uid in flat)

    def _reports_of(self, partition_id: str, uids: set[str]) -> list[tuple[str, ChainReport]]:
        """Return the prompt and the report of each chain of some prompts."""
        keys = [key for key in self.partitions[partition_id] if key.split("_")[0] in uids]
        if not keys:
            return []
        data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["extra_fields"])
        return [(key.split("_")[0], _report(fields)) for key, fields in zip(keys, data["extra_fields"], strict=True)]

    def _evict_terminal_groups(
        self, global_steps: int, partition_id: str, eviction_reasons: Reasons
    ) -> tuple[set[str], int, int, dict[str, object]]:
        """Evict groups, as verl does, and keep what they cost and what they say about their tasks."""
        stale, flat, failed, _ = eviction_reasons
        if partition_id == "train" and (gone := stale | flat | failed):
            self._discarded += [report for _, report in self._reports_of(partition_id, gone)]
            self._replaced += [self._dapo_classification_cache[partition_id][uid] for uid in flat]
        found: tuple[set[str], int, int, dict[str, object]] = super()._evict_terminal_groups(  # type: ignore[misc]
            global_steps, partition_id, eviction_reasons
        )
        return found

    def _take_lost(self, *, validate: bool) -> list[LostChain]:
        """Take the chains that were lost since the last call out of the queue."""
        # Listed anew: verl's last listing may be older than the report of a chain.
        lost = LostChain.find(tq.kv_list() or {}, validate=validate)
        if lost:
            tq.kv_clear(keys=list(lost), partition_id=LostChain.PARTITION)
        return list(lost.values())

    def _sync_metadata_from_transfer_queue(self) -> None:
        """List the queue, as verl does at each poll, and end the run if it cannot go on.

        Otherwise asynchronous trainers would wait for ever: they would ask a dead engine again and again, or put new
        prompts in the place of those that lost a chain.
        """
        super()._sync_metadata_from_transfer_queue()  # type: ignore[misc]
        held: Partitions = self.partitions
        if (failure := EngineFailure.find(held)) is not None:
            raise TrainingError(f"a rollout engine died: {failure.fault}")
        lost = LostChain.find(held, validate=False).values()
        prompts = len({chain.prompt for chain in lost})
        if 0 < self._limits.attempts * self._prompts < prompts:
            raise TrainingError(
                f"{prompts} prompts lost chains before {self._prompts} had all of theirs: {in_words(lost)}"
            )


class WatchfulReplayBuffer(_Watchful, ReplayBuffer):  # type: ignore[misc, unused-ignore]
    """The replay buffer of the synchronous trainer."""

    def _evict_terminal_groups(
        self, global_steps: int, partition_id: str, eviction_reasons: Reasons
    ) -> tuple[set[str], int, int, dict[str, object]]:
        """Evict groups and ask for one new prompt in the place of each without variance.

        verl's synchronous buffer asks for two and discards what is left over
        (verl/trainer/ppo/v1/replay_buffer.py:475 and 496). That is cheap where chains are text, but here tools would
        have worked for it. With one for one, as in verl's asynchronous buffer, nothing is left over, and the prompts of
        a step do not depend on which of them finish first.
        """
        evicted, stale, flat, metrics = super()._evict_terminal_groups(global_steps, partition_id, eviction_reasons)
        if flat:
            self.refill_fn(flat)
        return evicted, stale, 0, metrics


class WatchfulReplayBufferAsync(_Watchful, ReplayBufferAsync):  # type: ignore[misc, unused-ignore]
    """The replay buffer of the asynchronous trainers."""

    _replaces_lost = True


def _in_order(batch: SampledBatch, chains: Sequence[ChainReport]) -> list[ChainReport]:
    """Put a batch in the order of the chains' names, in place, and return their reports in that order.

    verl leaves chains in the order in which they have finished. Equal seeds would give other mini-batches each time.
    """
    order = sorted(range(len(chains)), key=lambda place: chains[place].id)
    batch.reorder(order)
    return [chains[place] for place in order]


def _reports(batch: SampledBatch) -> list[ChainReport]:
    """Return the reports of the chains of a batch, each checked to have the ids that were sampled."""
    if not batch.keys:
        return []
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=_FIELDS)
    found = []
    for place in range(len(batch.keys)):
        report = _report(data["extra_fields"][place])
        ids, mask = data["input_ids"][place], data["response_mask"][place]
        if (seen := digest(ids.tolist(), mask.tolist())) != report.digest:
            raise TrainingError(f"chain {report.id}: the trainer has ids {seen}, the rollout sampled {report.digest}")
        found.append(report)
    return found


def _report(fields: Any) -> ChainReport:
    """Return the report in the `extra_fields` of a sample."""
    return ChainReport.from_fields(getattr(fields, "data", fields))  # out of TensorDict's wrapper
