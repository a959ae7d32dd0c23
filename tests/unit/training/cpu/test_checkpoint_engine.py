"""Weights reach rollout workers of their own as they are: every name, type, shape and value, in buckets of any size."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ray = pytest.importorskip("ray")
pytest.importorskip("verl")
from verl.checkpoint_engine.base import CheckpointEngineRegistry  # noqa: E402

from agentfly.training.cpu import checkpoint_engine, engines  # noqa: E402
from agentfly.training.cpu.checkpoint_engine import BACKEND, GlooCheckpointEngine  # noqa: E402

pytestmark = pytest.mark.slow

WEIGHTS = {
    "norm": torch.randn(3),
    "half": torch.randn(5).to(torch.bfloat16),  # 10 bytes: what follows it in a bucket is not aligned
    "large": torch.randn(40, 7),
    "turned": torch.randn(4, 6).T,
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False, True]),
    "nothing": torch.empty(0, 4),
}


def send(bucket_size: int, weights: dict[str, Any], senders: int = 2, receivers: int = 2) -> list[dict[str, Any]]:
    """Go through one synchronisation as verl does (checkpoint_engine/base.py:update_weights), a thread a process."""
    trainer = [CheckpointEngineRegistry.new(BACKEND, bucket_size=bucket_size, is_master=not n) for n in range(senders)]
    rollout = [CheckpointEngineRegistry.new(BACKEND, bucket_size=bucket_size) for _ in range(receivers)]
    everyone = [*trainer, *rollout]
    metadata = [each.prepare() for each in everyone]
    mine, theirs = CheckpointEngineRegistry.get(BACKEND).build_topology(senders, receivers, metadata)
    arguments = [{name: values[n] for name, values in mine.items()} for n in range(senders)]
    arguments += [{name: values[n] for name, values in theirs.items()} for n in range(receivers)]

    async def receive(engine: GlooCheckpointEngine) -> dict[str, Any]:
        return {name: weight async for name, weight in engine.receive_weights(global_steps=3)}

    def work(number: int) -> dict[str, Any] | None:
        engine = everyone[number]
        engine.init_process_group(**arguments[number])
        if number >= senders:
            return asyncio.run(receive(engine))
        walked = iter(weights.items())
        asyncio.run(engine.send_weights(walked, global_steps=3))
        assert next(walked, None) is None, "each process of the trainer takes part in gathering every weight"
        return None

    with ThreadPoolExecutor(len(everyone)) as pool:
        found = list(pool.map(work, range(len(everyone))))
    for engine in everyone:
        engine.finalize()
    return [each for each in found if each is not None]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")


@pytest.mark.parametrize("bucket_size", [1, 100, 1 << 20])
def test_weights_arrive_as_they_were_sent(bucket_size: int) -> None:
    for received in send(bucket_size, WEIGHTS):
        assert list(received) == list(WEIGHTS)
        for name, weight in WEIGHTS.items():
            assert received[name].dtype == weight.dtype
            assert torch.equal(received[name], weight), name


def test_a_synchronisation_leaves_nothing_for_the_next() -> None:
    for value in (1.0, 2.0):
        [received] = send(16, {"w": torch.full((9,), value)}, senders=1, receivers=1)
        assert received["w"].tolist() == [value] * 9


def test_a_worker_that_does_not_come_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_engine, "_LIMIT", timedelta(milliseconds=200))
    master = GlooCheckpointEngine(16, is_master=True)
    address = master.prepare()
    with pytest.raises(RuntimeError):
        master.init_process_group(rank=0, world_size=2, **address)


def test_a_policy_that_is_put_aside_on_a_cpu_is_a_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """verl's own function hands out the live weights where moving them to the CPU moves nothing."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from verl.utils import fsdp_utils

    monkeypatch.setattr(fsdp_utils, "fsdp2_sharded_save_to_cpu", fsdp_utils.fsdp2_sharded_save_to_cpu)
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path}/store")
    try:
        model = fully_shard(torch.nn.Linear(2, 2), mesh=dist.init_device_mesh("cpu", (1,)))
        engines.register_engines()
        engines.register_engines()  # safe to call again
        state, spec = fsdp_utils.fsdp2_sharded_save_to_cpu(model)
        before = model.weight.full_tensor().clone()
        with torch.no_grad():
            model.weight.add_(1.0)
        fsdp_utils.fsdp2_sharded_load_from_cpu(model, state, spec)
        assert torch.equal(model.weight.full_tensor(), before)
    finally:
        dist.destroy_process_group()
