"""Turn sources into samples: read them, drop duplicates, cut to length, split, and count all that is left out."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from agentfly.errors import ConfigError, DatasetError
from agentfly.images import ImageStore
from agentfly.templates import ChatCodec
from agentfly.training.supervised.data.config import DataConfig
from agentfly.training.supervised.data.demonstrations import expert_demonstrations
from agentfly.training.supervised.data.examples import IGNORED, Sample
from agentfly.training.supervised.data.openai_rows import openai_samples
from agentfly.training.supervised.data.splits import digest, hold_out, unique
from agentfly.training.supervised.data.trajectories import trajectory_sample, trajectory_samples

logger = logging.getLogger(__name__)

# Advice by the reason for which samples were left out.
_ADVICE = {
    "without their images": (
        "; name their folder with data.images; `agentfly train` keeps them with agentfly.images=true"
    ),
    "too long": "; raise data.max_length",
    "below the minimum score": "; lower data.min_score, or score them first with `agentfly replay`",
}


class DataSummary(TypedDict):
    """Sizes of a run's data, as plain JSON.

    Attributes:
        training: samples to train on.
        held_out: samples that are only evaluated.
        tokens: ids of the training samples.
        labelled: those with loss.
        longest: ids of the longest training sample.
        images: of the training samples.
        digest: hash of the training samples.
        counts: see `Prepared`.
    """

    training: int
    held_out: int
    tokens: int
    labelled: int
    longest: int
    images: int
    digest: str
    counts: dict[str, int]


@dataclass(frozen=True)
class Prepared:
    """Samples of a run.

    Attributes:
        training: to train on.
        held_out: only evaluated; of other tasks than those in `training`.
        counts: samples by source, and those that were left out or cut, by reason.
    """

    training: list[Sample]
    held_out: list[Sample]
    counts: dict[str, int]

    def summary(self) -> DataSummary:
        """Return sizes, counts and a hash of the content."""
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
    """Read all sources and split their samples.

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
    store = ImageStore()
    samples: list[Sample] = []
    if config.stickers:
        played = asyncio.run(expert_demonstrations(config.stickers, store, seed, system_prompt=system_prompt))
        samples += [trajectory_sample(trajectory, codec, store.get) for trajectory in played]
    counts["demonstrations"] = len(samples)
    samples += trajectory_samples(config, codec, counts)
    rows = [sample for path in config.openai for sample in openai_samples(path, codec, store)]
    counts["rows"] = len(rows)
    samples = _fitting(unique(samples + rows), config.max_length, counts)
    found = {name: number for name, number in counts.items() if number}
    if not samples:
        advice = next((text for reason, text in _ADVICE.items() if reason in found), "")
        raise DatasetError(f"nothing is left to learn from: {found}{advice}")
    logger.info("supervised data: %s", found)
    training, held_out = hold_out(samples, config.held_out, seed)
    return Prepared(training, held_out, found)


def _fitting(samples: list[Sample], limit: int, counts: Counter[str]) -> list[Sample]:
    """Cut longer samples at the end of a turn within the limit, and drop those of which no turn fits."""
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
