"""verl's replay buffer with a shorter poll interval for small models, and with metrics of the chains that it returns.

verl takes the class from `trainer.v1.sampler.custom_sampler`; it lives in the process of the trainer, and the metrics
that it returns with a batch are logged with those of the step. A batch that has lost too many chains to faults is not
returned: another one is sampled in its place (see `agentfly.training.verl.chain_faults`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import transfer_queue as tq
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from agentfly.errors import TrainingError
from agentfly.training.launch.evaluator_sleep import servers_of
from agentfly.training.launch.log_reader import SAMPLED, log_to_run, steps_so_far
from agentfly.training.launch.stack_dump import dump_on_request
from agentfly.training.recipe.compose import settings_of
from agentfly.training.recipe.verl_config import HasSettings
from agentfly.training.verl import turn_grpo  # noqa: F401  (registers the estimator in the trainer's process)
from agentfly.training.verl.chain_faults import in_words, loss_metrics, why_unfit
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


class _NothingLeft(Exception):
    """Every chain of the prompts that were chosen for a batch is lost."""


class _Watchful:
    """Polls for finished rollouts 20 times a second, and judges and observes each training batch.

    verl polls every 2.0 s and has no setting for it (verl/trainer/ppo/v1/replay_buffer.py:140), which is most of a step
    when a rollout takes a second.
    """

    _replaces_lost = False  # verl puts another prompt in the place of each that has lost a chain

    def __init__(self, *args: object, sampler_kwargs: HasSettings, **kwargs: object) -> None:
        log_to_run(notices=True)
        named = {"sampler_kwargs": sampler_kwargs, "poll_interval": POLL_SECONDS, **kwargs}
        super().__init__(*args, **named)
        settings = settings_of(sampler_kwargs)
        self._limits = settings.lost_chains
        self._servers = servers_of(settings)
        self._servers.sleep()
        self._observer = StepObserver(settings, steps_so_far(settings.metrics_log))
        self._validation_losses: dict[str, float] = {}
        self._prompts = 0  # of the training batch that is being sampled
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
                return batch, {**metrics, **before, **observed, **losses, **again, **self._servers.take_metrics()}
            if attempt < limits.attempts:
                logger.warning("step %d is sampled again in %g s and not trained on: %s", step, limits.pause, unfit)
                time.sleep(limits.pause)
                if batch.keys:
                    tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)
                self.refill_fn(prompts)  # type: ignore[attr-defined]
        raise TrainingError(f"step {step} was sampled {limits.attempts} times and never fit to be trained on: {unfit}")

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
            self._clear_groups(partition_id, set(chosen))  # type: ignore[attr-defined]
            raise _NothingLeft
        return chosen, held, steps

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
        held: Partitions = self.partitions  # type: ignore[attr-defined]
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
        fields = data["extra_fields"][place]
        report = ChainReport.from_fields(getattr(fields, "data", fields))  # out of TensorDict's wrapper
        ids, mask = data["input_ids"][place], data["response_mask"][place]
        if (seen := digest(ids.tolist(), mask.tolist())) != report.digest:
            raise TrainingError(f"chain {report.id}: the trainer has ids {seen}, the rollout sampled {report.digest}")
        found.append(report)
    return found
