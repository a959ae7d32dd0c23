"""Group samples into tasks, find equal samples, and choose the held-out tasks."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence

from agentfly.messages import Message
from agentfly.training.supervised.data.examples import Sample


def task_key(prompt: Iterable[Message]) -> str:
    """Return the key of a task: the same words about the same images give the same key."""
    text = json.dumps([message.to_dict() for message in prompt], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(samples: Iterable[Sample]) -> str:
    """Return a hash of the content of samples, in their order."""
    total = hashlib.sha256()
    for sample in samples:
        total.update(content_key(sample))
    return total.hexdigest()[:16]


def content_key(sample: Sample) -> bytes:
    """Return a key that is equal for samples with the same ids, labels and images."""
    parts = (sample.ids.tobytes(), sample.labels.tobytes(), " ".join(sample.images).encode())
    return hashlib.sha256(b"|".join(parts)).digest()


def unique(samples: Iterable[Sample]) -> list[Sample]:
    """Return the samples without duplicates, each at its first place."""
    return list({content_key(sample): sample for sample in reversed(list(samples))}.values())[::-1]


def hold_out(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split samples by task into training and held-out samples.

    Args:
        samples: to split.
        share: of the tasks that is held out; with two tasks or more, neither side is empty unless it is 0.
        seed: of the split.
    """
    tasks = sorted({sample.task for sample in samples})
    if share <= 0.0 or len(tasks) < 2:
        return list(samples), []
    random.Random(f"held-out-{seed}").shuffle(tasks)
    held = set(tasks[: min(len(tasks) - 1, max(1, round(share * len(tasks))))])
    return [s for s in samples if s.task not in held], [s for s in samples if s.task in held]
