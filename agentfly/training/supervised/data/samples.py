"""Turn sources into samples: read, without duplicates, cut to length, split; and count everything that was left out."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentfly.agents import ImageEditingAgent
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.datasets import FAMILIES, StickerWorld
from agentfly.errors import ConfigError, DatasetError
from agentfly.images import ImageStore, ImageView
from agentfly.templates import ChatCodec
from agentfly.training.supervised.config import DataConfig
from agentfly.training.supervised.data.demonstrations import EXPERT, PLAYED_TOGETHER, play
from agentfly.training.supervised.data.examples import IGNORED, Sample
from agentfly.training.supervised.data.openai_rows import openai_samples
from agentfly.training.supervised.data.splits import digest, hold_out, unique
from agentfly.training.supervised.data.trajectories import trajectory_sample, trajectory_samples

logger = logging.getLogger(__name__)

_FIRST_STICKER_TASK = 2_000_000  # apart from the tasks of the quickstart's warm start and training


@dataclass(frozen=True)
class Prepared:
    """Samples of a run.

    Attributes:
        training, held_out: disjoint in their tasks.
        counts: what came from where, and what was left out or cut.
    """

    training: list[Sample]
    held_out: list[Sample]
    counts: dict[str, int]

    def summary(self) -> dict[str, Any]:
        """Plain JSON: counts, sizes and a name of the content."""
        lengths = [len(sample.ids) for sample in self.training]
        return {
            "training": len(self.training),
            "held_out": len(self.held_out),
            "tokens": sum(lengths),
            "labelled": sum(sample.labelled for sample in self.training),
            "longest": max(lengths),
            "images": sum(len(sample.images) for sample in self.training),
            "digest": digest(self.training),
            "counts": self.counts,
        }


def prepare(config: DataConfig, codec: ChatCodec, *, system_prompt: str | None, seed: int) -> Prepared:
    """Read and prepare all sources.

    Args:
        config: see `DataConfig`.
        codec: of the model.
        system_prompt: of the demonstrations.
        seed: of the demonstrations and the split.

    Raises:
        ConfigError: no source is named.
        DatasetError: a source cannot be used, or nothing is left to learn from; the message says why.
    """
    if not (config.stickers or config.trajectories or config.openai):
        raise ConfigError("nothing to learn from: give data.stickers, data.trajectories or data.openai")
    counts: Counter[str] = Counter()
    samples = _stickers(config.stickers, codec, system_prompt, seed) if config.stickers else []
    counts["demonstrations"] = len(samples)
    samples += trajectory_samples(config, codec, counts)
    store = ImageStore()
    rows = [sample for path in config.openai for sample in openai_samples(path, codec, store)]
    counts["rows"] = len(rows)
    samples = _fitting(unique(samples + rows), config.max_length, counts)
    told = {name: number for name, number in counts.items() if number}
    if not samples:
        raise DatasetError(f"nothing is left to learn from: {told}{_hint(counts)}")
    logger.info("supervised data: %s", told)
    training, held_out = hold_out(samples, config.held_out, seed)
    return Prepared(training, held_out, told)


def _stickers(count: int, codec: ChatCodec, system_prompt: str | None, seed: int) -> list[Sample]:
    world, store = StickerWorld(), ImageStore()
    tasks = [
        world.task(_FIRST_STICKER_TASK + index, "train", FAMILIES[index % len(FAMILIES)], seed=seed)
        for index in range(count)
    ]
    rng, shown = random.Random(f"demonstrations-{seed}"), []
    for start in range(0, count, PLAYED_TOGETHER):
        batch = tasks[start : start + PLAYED_TOGETHER]
        shown += asyncio.run(play(batch, EXPERT, store, rng, system_prompt=system_prompt))
    schemas = ImageEditingAgent("demonstrations", backend=ScriptedBackend([])).toolset(ImageView(store)).schemas()
    for trajectory in shown:
        trajectory.tools = schemas
    return [trajectory_sample(trajectory, codec, store.get) for trajectory in shown]


def _fitting(samples: list[Sample], limit: int, counts: Counter[str]) -> list[Sample]:
    """Samples within the limit, cut at the end of a turn where they are longer; dropped where no turn fits."""
    kept: list[Sample] = []
    for sample in samples:
        labelled = np.flatnonzero(sample.labels != IGNORED)
        cut = sample.cut(limit)
        if cut is None:
            counts["too long" if labelled.size else "without a turn to learn"] += 1
        else:
            counts["cut"] += int(len(cut.ids) <= labelled[-1])
            kept.append(cut)
    return kept


def _hint(counts: Counter[str]) -> str:
    hints = {
        "without their images": (
            "; name their folder with data.images; `agentfly train` keeps them with agentfly.images=true"
        ),
        "too long": "; raise data.max_length",
        "below the minimum score": "; lower data.min_score, or score them first with `agentfly replay`",
    }
    return next((hint for reason, hint in hints.items() if counts[reason]), "")
