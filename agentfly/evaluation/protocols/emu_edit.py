"""The Emu Edit test set (Sheynin et al. 2023, arXiv:2311.10089), by the five metrics of the paper.

CLIP direction (cosine of the change of the image and the change of the caption), CLIP image (cosine of source and
result), CLIP output (cosine of the result and its caption), L1 and DINO between source and result. The authors publish
captions and no script: the models, and the size in which L1 is taken (that of the source), are ours, so figures of
other papers may differ in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agentfly.evaluation.protocols.base import Measure, MeasuredProtocol, Row, Split, aspect, groups_of, over_tasks

_METRICS = ("clip-out", "clip-dir", "clip-img", "l1", "dino")


def measures(rows: Sequence[Row]) -> Iterator[Measure]:
    """Yield the mean of each metric over all samples that have it, then by task type."""
    for group, those in ((None, rows), *groups_of(rows).items()):
        for name in _METRICS:
            if any(name in row.aspects for row in those):
                yield over_tasks(those, name, aspect(name), group)


EMU_EDIT = MeasuredProtocol(
    name="emu-edit",
    title="Emu Edit test set",
    repository="",
    commit="",
    data="emu-edit",
    splits={"test": Split("test"), "validation": Split("validation")},
    measures=measures,
    decimals=4,
    note="L1: lower is better. A high CLIP image, DINO and low L1 are those of an unchanged image, too.",
    metrics=_METRICS,
    against="source",
    models={"clip": "openai/clip-vit-base-patch32", "dino": "facebook/dino-vits16"},
)
