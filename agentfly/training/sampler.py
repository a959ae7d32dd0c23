"""verl's replay buffer with a shorter poll interval for small models, and with metrics of the chains that it returns.

verl takes the class from `trainer.v1.sampler.custom_sampler`; it lives in the process of the trainer, and what it
returns beside a batch is logged with the step's metrics.
"""

from __future__ import annotations

import logging
from typing import Any

import transfer_queue as tq
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from agentfly.errors import TrainingError
from agentfly.training import turn_advantage  # noqa: F401  (registers the estimator in the trainer's process)
from agentfly.training.lost import lost_in
from agentfly.training.observer import StepObserver
from agentfly.training.parity import digest
from agentfly.training.progress import SAMPLED, steps_so_far
from agentfly.training.settings import TrainSettings
from agentfly.training.stacks import dump_on_request

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05
_FIELDS = ["extra_fields", "input_ids", "prompts", "response_mask"]


class _Watchful:
    """Looks for finished rollouts 20 times a second, and observes each training batch.

    verl looks every 2.0 s and has no setting for it (verl/trainer/ppo/v1/replay_buffer.py:140), which is most of a
    step when a rollout takes a second.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"poll_interval": POLL_SECONDS, **kwargs})
        settings = _settings(kwargs["sampler_kwargs"])
        self._observer = StepObserver(settings, steps_so_far(settings.metrics_log))
        dump_on_request()

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """A batch, and metrics of it; see `ReplayBuffer.sample`.

        Raises:
            TrainingError: a rollout engine died; see `agentfly.training.lost`.
        """
        batch, metrics = super().sample(global_steps, partition_id, batch_size)  # type: ignore[misc]
        logger.info("%s %d", SAMPLED, global_steps)
        if partition_id == "train":
            chains = _chains(batch)
            metrics = {**metrics, **self._observer.observe(chains, global_steps)}
        return batch, metrics

    def _sync_metadata_from_transfer_queue(self) -> None:
        """What verl does whenever it looks; without this, asynchronous trainers would ask a dead engine for ever."""
        super()._sync_metadata_from_transfer_queue()  # type: ignore[misc]
        if (fault := lost_in(self.partitions)) is not None:  # type: ignore[attr-defined]
            raise TrainingError(f"a rollout engine died: {fault}")


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
