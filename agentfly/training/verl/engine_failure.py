"""A rollout engine that died: the worker that noticed tells the trainer, which must not train on the remaining chains.

The chains of such a step are cut short or missing through no fault of the policy. An update on the rest would be
written to a checkpoint, and a resumed run would continue from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTITION = "agentfly-lost"  # of verl's queue, where both look anyway
_LOST = frozenset({"RayActorError", "ActorDiedError", "ActorUnavailableError", "EngineDeadError"})


def is_lost(fault: BaseException) -> bool:
    """Whether an error of a generation says that its engine, or the server before it, is gone.

    Ray hands on an error of a remote process as a class made of its own and the original one; vLLM's need not be
    importable here. So classes are known by name.
    """
    return any(kind.__name__ in _LOST for kind in type(fault).__mro__)


async def tell_lost(fault: BaseException) -> None:
    """Tell the trainer, from a worker."""
    import transfer_queue as tq

    words = str(fault).strip().splitlines() or [""]
    tag = {"fault": f"{type(fault).__name__}: {words[-1]}"}
    await tq.async_kv_put(key="engine", partition_id=PARTITION, tag=tag)


def lost_in(partitions: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str | None:
    """What a worker told, in all that the queue holds by partition and key; None if all engines live."""
    # A key is listed a moment before its tag.
    return next((str(tag["fault"]) for tag in partitions.get(PARTITION, {}).values() if tag), None)
