"""MagicBrush (Zhang et al. 2023, arXiv:2306.10012), as `evaluation/image_eval.py` of OSU-NLP-Group/MagicBrush does.

The result is compared with the published target: L1 and L2 (mean absolute and mean squared difference of RGB from 0 to
1, the result resized to the target), CLIP-I and DINO (cosines of the embeddings of both images by CLIP ViT-B/32 and
DINO ViT-S/16), and CLIP-T (cosine of the result and the caption of the target, which only the test split has). The
single-turn setting edits the published image before each turn; the multi-turn setting edits the first image by all
turns in order, and compares the last result with the last target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentfly.evaluation.protocols.base import Measure, MeasuredProtocol, Row, Split, aspect, over_tasks

_METRICS = ("clip-i", "l1", "l2", "dino", "clip-t")


def measures(rows: Sequence[Row]) -> Iterator[Measure]:
    """Yield the mean of each metric over all samples that have it."""
    for name in _METRICS:
        if any(name in row.aspects for row in rows):
            yield over_tasks(rows, name, aspect(name))


MAGICBRUSH = MeasuredProtocol(
    name="magicbrush",
    title="MagicBrush",
    repository="OSU-NLP-Group/MagicBrush",
    commit="fcfc8921396b5e2b047c388028b7c995f5e0ee19",
    data="magicbrush",
    splits={
        "test": Split("test", sizes=(1053,)),
        "test-multi-turn": Split("test", {"multi_turn": "session"}, sizes=(535,)),
        "dev": Split("dev", sizes=(528,)),
        "dev-multi-turn": Split("dev", {"multi_turn": "session"}, sizes=(266,)),
    },
    measures=measures,
    decimals=4,
    note="L1 and L2: lower is better. Published figures are of the test split.",
    metrics=_METRICS,
    against="target",
    models={"clip": "openai/clip-vit-base-patch32", "dino": "facebook/dino-vits16"},
)
