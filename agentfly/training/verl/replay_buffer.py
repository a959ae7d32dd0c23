"""verl's replay buffer with a shorter poll interval for small models, and with metrics of the chains that it returns.

verl takes the class from `trainer.v1.sampler.custom_sampler`; it lives in the process of the trainer, and what it
returns beside a batch is logged with the step's metrics. A batch that has lost too many chains to faults is not handed
on: another one is sampled in its place (see `agentfly.training.verl.chain_faults`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import transfer_queue as tq
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from agentfly.errors import TrainingError
from agentfly.training.launch.log_reader import SAMPLED, log_to_run, steps_so_far
from agentfly.training.launch.stack_dump import dump_on_request
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.verl import (
    chain_faults,
    engine_failure,
    turn_grpo,  # noqa: F401  (registers the estimator in the trainer's process)
)
from agentfly.training.verl.chain_faults import LostChain
from agentfly.training.verl.parity import digest
from agentfly.training.verl.step_metrics import StepObserver

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05
_FIELDS = ["extra_fields", "input_ids", "prompts", "response_mask"]


class _NothingLeft(Exception):
    """Every chain of the prompts that were chosen for a batch is lost."""


class _Watchful:
    """Looks for finished rollouts 20 times a second, and judges and observes each training batch.

    verl looks every 2.0 s and has no setting for it (verl/trainer/ppo/v1/replay_buffer.py:140), which is most of a
    step when a rollout takes a second.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        log_to_run(notices=True)
        super().__init__(*args, **{"poll_interval": POLL_SECONDS, **kwargs})
        settings = _settings(kwargs["sampler_kwargs"])
        self._limits = settings.lost_chains
        self._observer = StepObserver(settings, steps_so_far(settings.metrics_log))
        self._validation_losses: dict[str, float] = {}
        self._prompts = 0  # of the training batch that is being sampled
        dump_on_request()

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """A batch, and metrics of it; see `ReplayBuffer.sample`.

        Raises:
            TrainingError: a rollout engine died (`training.verl.engine_failure`), or too many chains were lost.
        """
        if partition_id == "train":
            return self._sample_to_train(global_steps, batch_size)
        return self._sample_to_validate(global_steps, partition_id, batch_size)

    def _sample_to_train(self, step: int, prompts: int) -> tuple[Any, dict[str, Any]]:
        limits, all_lost = self._limits, list[LostChain]()
        for attempt in range(1, limits.attempts + 1):
            self._prompts = prompts
            batch, metrics = self._finished(step, "train", prompts)
            chains = _chains(batch)
            found = self._take_lost(validate=False)
            all_lost += found
            kept: dict[str, list[bool]] = {}
            for key, chain in zip(batch.keys, chains, strict=True):
                kept.setdefault(key.split("_")[0], []).append(bool(chain["facts"]["answered"]))
            unfit = chain_faults.why_unfit(kept, found, limits.share)
            if unfit is None:
                logger.info("%s %d", SAMPLED, step)
                losses = chain_faults.loss_metrics(all_lost, len(chains))
                observed = self._observer.observe(chains, step)
                again = {"chains/sampled_again": float(attempt - 1)}
                before, self._validation_losses = self._validation_losses, {}
                return batch, {**metrics, **before, **observed, **losses, **again}
            if attempt < limits.attempts:
                logger.warning("step %d is sampled again in %g s and not trained on: %s", step, limits.pause, unfit)
                time.sleep(limits.pause)
                self._sample_again(batch, prompts)
        raise TrainingError(f"step {step} was sampled {limits.attempts} times and never fit to be trained on: {unfit}")

    def _sample_to_validate(self, step: int, partition_id: str, prompts: int) -> tuple[Any, dict[str, Any]]:
        batch, metrics = self._finished(step, partition_id, prompts)
        logger.info("%s %d", SAMPLED, step)
        found = self._take_lost(validate=True)
        if not batch.keys:
            raise TrainingError(f"no chain of the validation is left: {chain_faults.in_words(found)}")
        if found:
            words = chain_faults.in_words(found)
            logger.warning("the validation of step %d is without %d chains: %s", step, len(found), words)
        losses = chain_faults.loss_metrics(found, len(batch.keys))
        # verl drops what comes with a batch to validate; the next step's metrics carry it.
        self._validation_losses = {f"validation/{name}": value for name, value in losses.items()}
        return batch, metrics

    def _finished(self, step: int, partition_id: str, prompts: int) -> tuple[Any, dict[str, Any]]:
        """verl's batch and metrics; an empty batch where no chain of it is left."""
        try:
            return super().sample(step, partition_id, prompts)  # type: ignore[misc]
        except _NothingLeft:
            return tq.KVBatchMeta(partition_id=partition_id, keys=[], tags=[]), {}

    def _select_prompt_uids(self, partition_id: str, sampleable_keys: set[str], batch_size: int) -> Any:
        """What verl selects; it has a message of its own, and no way back, for prompts without any chain."""
        chosen, held, steps = super()._select_prompt_uids(partition_id, sampleable_keys, batch_size)  # type: ignore[misc]
        if not {key.split("_")[0] for key in held} & set(chosen):
            self._clear_groups(partition_id, set(chosen))  # type: ignore[attr-defined]
            raise _NothingLeft
        return chosen, held, steps

    def _sample_again(self, batch: Any, prompts: int) -> None:
        """Forget a batch, and have as many other prompts sampled."""
        if batch.keys:
            tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)
        self.refill_fn(prompts)  # type: ignore[attr-defined]

    def _take_lost(self, *, validate: bool) -> list[LostChain]:
        """The chains that were lost since this was last asked."""
        # Asked anew: what verl saw last may be older than the report of a chain.
        found = chain_faults.lost_in(tq.kv_list() or {}, validate=validate)
        if found:
            tq.kv_clear(keys=list(found), partition_id=chain_faults.PARTITION)
        return list(found.values())

    def _sync_metadata_from_transfer_queue(self) -> None:
        """What verl does whenever it looks; without this, asynchronous trainers would wait for ever.

        They would ask a dead engine again and again, or put new prompts in the place of those that lost a chain.
        """
        super()._sync_metadata_from_transfer_queue()  # type: ignore[misc]
        held: Mapping[str, Any] = self.partitions  # type: ignore[attr-defined]
        if (fault := engine_failure.lost_in(held)) is not None:
            raise TrainingError(f"a rollout engine died: {fault}")
        found = chain_faults.lost_in(held, validate=False).values()
        prompts = len({chain.prompt for chain in found})
        if 0 < self._limits.attempts * self._prompts < prompts:
            raise TrainingError(
                f"{prompts} prompts lost chains before {self._prompts} had all of theirs: "
                f"{chain_faults.in_words(found)}"
            )


class WatchfulReplayBuffer(_Watchful, ReplayBuffer):  # type: ignore[misc, unused-ignore]
    """For the synchronous trainer."""


class WatchfulReplayBufferAsync(_Watchful, ReplayBufferAsync):  # type: ignore[misc, unused-ignore]
    """For the asynchronous trainers."""


def _settings(sampler_kwargs: Any) -> TrainSettings:
    return TrainSettings(**OmegaConf.to_container(sampler_kwargs, resolve=True)["agentfly"])


def _chains(batch: Any) -> list[dict[str, Any]]:
    """What the chains of a batch tell, each proved to have the ids that it was sampled with."""
    if not batch.keys:
        return []
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=_FIELDS)
    found = []
    for place in range(len(batch.keys)):
        told = _plain(data["extra_fields"][place])["agentfly"]
        ids, mask = data["input_ids"][place], data["response_mask"][place]
        if (seen := digest(ids.tolist(), mask.tolist())) != told["digest"]:
            raise TrainingError(f"chain {told['id']}: the trainer has ids {seen}, the rollout sampled {told['digest']}")
        found.append(told)
    return found


def _plain(value: Any) -> Any:
    """The value inside of TensorDict's wrapper."""
    return getattr(value, "data", value)
