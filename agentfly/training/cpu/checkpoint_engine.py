"""verl's checkpoint engine for machines without GPU: weights go by gloo to rollout engines of their own.

verl's trainer `separate_async` needs one, and those that come with verl want CUDA or NPU libraries (nccl, nixl, hccl,
mooncake, kimi) or the same process for both sides (naive; verl/trainer/ppo/v1/trainer_separate_async.py:70). verl
imports this module in the trainer and in each rollout worker, as `checkpoint_engine.custom_backend_module` names it
(verl/checkpoint_engine/base.py:309, verl/workers/engine_workers.py:685).

Rank 0 of the group is the trainer's first process, which has whole weights; the others are the rollout workers. The
trainer's other processes stay outside. A group lives for one synchronisation, so that a replica may come or go.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry

BACKEND = "gloo"
# For a process that does not come; the launcher's limit of an update (`agentfly.patience.update`) is longer.
_LIMIT = timedelta(seconds=300)
_OUTSIDE = -1  # rank of a process that is no part of the group

Weights = Iterable[tuple[str, torch.Tensor]]


@CheckpointEngineRegistry.register(BACKEND)
class GlooCheckpointEngine(CheckpointEngine):  # type: ignore[misc, unused-ignore]
    """Sends weights in buckets from one process to all others of a gloo group; see `CheckpointEngine`.

    Args:
        bucket_size: bytes that are sent at once; a larger tensor is sent alone.
        is_master: True in the trainer's first process.
    """

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self._bucket_size, self._is_master = bucket_size, is_master
        self._rank = _OUTSIDE
        self._store: dist.TCPStore | None = None
        self._group: dist.ProcessGroupGloo | None = None

    def prepare(self) -> dict[str, Any]:
        """Return the address of the store at which the group meets; nothing from the processes that have none."""
        if not self._is_master:
            return {}
        host = ray.util.get_node_ip_address().strip("[]")
        self._store = dist.TCPStore(host, 0, is_master=True, timeout=_LIMIT, wait_for_workers=False)
        return {"host": host, "port": self._store.port}

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict[str, Any]]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Return the arguments of `init_process_group` for each of the trainer's processes and each rollout worker.

        Args:
            actor_wg_world_size: number of the trainer's processes.
            rollout_world_size: number of rollout workers, of all replicas.
            metadata: what `prepare` returned, the trainer's first.
        """

        def shared(count: int) -> dict[str, list[Any]]:
            values = {"world_size": rollout_world_size + 1, **metadata[0]}
            return {name: [value] * count for name, value in values.items()}

        trainer = {"rank": [0] + [_OUTSIDE] * (actor_wg_world_size - 1), **shared(actor_wg_world_size)}
        return trainer, {"rank": list(range(1, rollout_world_size + 1)), **shared(rollout_world_size)}

    def init_process_group(self, rank: int, world_size: int, host: str, port: int) -> None:
        """Join the group; returns when all have.

        Args:
            rank: of this process; -1 where it is no part of the group.
            world_size: number of processes in the group.
            host, port: of the store.

        Raises:
            RuntimeError: another process did not come within the limit.
        """
        self._rank = rank
        if rank == _OUTSIDE:
            return
        if self._store is None:
            self._store = dist.TCPStore(host, port, is_master=False, timeout=_LIMIT, wait_for_workers=False)
        self._group = dist.ProcessGroupGloo(self._store, rank, world_size, _LIMIT)

    def finalize(self) -> None:
        """Leave the group."""
        self._group, self._store = None, None

    @torch.no_grad()
    async def send_weights(self, weights: Weights, global_steps: int | None = None) -> None:
        """Send the weights to all others.

        Args:
            weights: by name. Each is gathered from all processes of the trainer, so all of them must walk through it.
            global_steps: of the trainer; the rollout workers are told it apart.
        """
        bucket: list[tuple[str, torch.Tensor]] = []
        size = number = 0
        for name, weight in weights:
            if self._rank == _OUTSIDE:
                continue
            if bucket and size + weight.nbytes > self._bucket_size:
                self._send(number, bucket, last=False)
                bucket, size, number = [], 0, number + 1
            bucket.append((name, weight.detach().cpu()))
            size += weight.nbytes
        if self._rank != _OUTSIDE:
            self._send(number, bucket, last=True)

    async def receive_weights(self, global_steps: int | None = None) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        """Yield the weights by name, as they come.

        Args:
            global_steps: of the trainer.
        """
        assert self._store is not None
        number, last = 0, False
        while not last:
            head = json.loads(self._store.get(_key(number)))
            number, last = number + 1, head["last"]
            flat = torch.empty(head["bytes"], dtype=torch.uint8)
            self._broadcast(flat)
            place = 0
            for name, shape, kind in head["tensors"]:
                dtype = getattr(torch, kind)
                end = place + torch.Size(shape).numel() * dtype.itemsize
                # A copy: a part of the bucket may begin where no number of this type can.
                yield name, flat[place:end].clone().view(dtype).view(shape)
                place = end

    def _send(self, number: int, bucket: list[tuple[str, torch.Tensor]], *, last: bool) -> None:
        assert self._store is not None
        parts = [weight.contiguous().view(-1).view(torch.uint8) for _, weight in bucket]
        flat = torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)
        tensors = [[name, list(weight.shape), str(weight.dtype).removeprefix("torch.")] for name, weight in bucket]
        head = {"tensors": tensors, "bytes": flat.numel(), "last": last}
        self._store.set(_key(number), json.dumps(head))
        self._broadcast(flat)

    def _broadcast(self, flat: torch.Tensor) -> None:
        assert self._group is not None
        if flat.numel():
            self._group.broadcast(flat, 0).wait()


def _key(number: int) -> str:
    """Return the key under which the store has the names and shapes of a bucket."""
    return f"weights/{number}"
