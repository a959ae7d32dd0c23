"""The parts of verl's and Ray's objects that we use, as types."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol

from PIL import Image


class TokenOutput(Protocol):
    """One generation of verl's rollout server (verl/workers/rollout/replica.py)."""

    token_ids: Sequence[int]
    log_probs: Sequence[float] | None
    stop_reason: str | None
    extra_fields: Mapping[str, object]


class RolloutServer(Protocol):
    """verl's client of the rollout servers (verl/workers/rollout/llm_server.py)."""

    async def generate(
        self,
        *,
        request_id: str,
        prompt_ids: list[int],
        sampling_params: dict[str, object],
        image_data: list[Image.Image] | None,
    ) -> TokenOutput:
        """Sample one turn."""
        ...


class ScoreMethod(Protocol):
    """The remote method `compute_score` of a reward loop worker."""

    def remote(self, data: object) -> Awaitable[Mapping[str, object]]:
        """Score a `DataProto` of one sample."""
        ...


class RewardWorker(Protocol):
    """Ray's handle of a reward loop worker (verl/experimental/reward_loop/reward_loop.py)."""

    compute_score: ScoreMethod


class SampledBatch(Protocol):
    """Keys of a batch in verl's queue (`KVBatchMeta` of transfer_queue)."""

    keys: list[str]
    tags: list[dict[str, Any]]
    partition_id: str

    def reorder(self, indexes: list[int]) -> None:
        """Reorder keys and tags, in place."""
        ...
