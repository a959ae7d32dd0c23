"""Score against a known answer: the edit inside the mask, and the rest of the image outside of it.

Only the regions of an image that can matter are computed: rectangles of its rows and columns.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators.base import EditSample, Score
from agentfly.evaluators.measured.lab import STRIP, Floats, LabMemory, LabReader, Pixels, reach
from agentfly.evaluators.measured.regions import bounds, common, difference, grown, joint, relative, size_of, strips
from agentfly.images import on_white
from agentfly.settings import Settings

OWN_CONSTANTS = "reference_evaluator"  # in the metadata of a task
_SOURCES = LabMemory()


class ReferenceConfig(Settings):
    """Constants of the score; the defaults are calibrated on the sticker world at 168 x 168 pixels.

    Attributes:
        blur: standard deviation in pixels of the Gaussian that is laid over all images first.
        lightness_weight: weight of the lightness difference inside the mask, where hue and chroma weigh 1. Under a
            sticker nobody can know how dark the photograph is, though it is known not to be red.
        inside_tolerance: colour difference inside the mask that counts as none, because a fill cannot know the texture.
        inside_half: colour difference above the tolerance that counts as half wrong. Purple for blue is no success,
            though yellow was far from both.
        outside_tolerance: colour difference outside of the mask that counts as none.
        outside_range: colour difference above the tolerance at which a pixel counts as wholly spoiled.
        outside_decay: k in `outside = exp(-k * spoiled share of the image)`.
        changed_tolerance: largest colour difference of an image that counts as unchanged.
    """

    blur: float = Field(1.0, gt=0)
    lightness_weight: float = Field(0.4, gt=0, le=1)
    inside_tolerance: float = Field(8.0, ge=0)
    inside_half: float = Field(25.0, gt=0)
    outside_tolerance: float = Field(2.0, ge=0)
    outside_range: float = Field(30.0, gt=0)
    outside_decay: float = Field(45.0, gt=0)
    changed_tolerance: float = Field(1.0, ge=0)


@dataclass(frozen=True)
class _Differences:
    """Distances of a result.

    Attributes:
        moved: largest one from the source.
        spoiled: sum over the pixels outside of the mask, each from 0 to 1.
        source_errors, result_errors: d' of source and result from the target, in each pixel of the mask.
    """

    moved: float
    spoiled: float
    source_errors: Floats
    result_errors: Floats


class ReferenceEvaluator:
    """Compares with target and mask; `100 * inside * outside * changed`.

    With d(a, b) the CIE Lab distance of two blurred images in each pixel, d' the same with lightness weighted, M the
    pixels of the mask, t_in, h, t_out, r and k as in `ReferenceConfig` and [x] = min(max(x, 0), 1):

        e(x)      = max(0, d'(x, target) - t_in)
        error(x)  = mean over M of e(x) / (e(x) + h)
        inside    = [1 - error(result) / error(source)]
        away      = min(d(result, source), d(result, target))
        spoiled   = sum of [(away - t_out) / r] over the pixels outside of M / number of all pixels
        outside   = exp(-k * spoiled)
        changed   = 1 if d(result, source) exceeds its tolerance anywhere, else 0

    With the product, nothing is gained by copying the source (inside = 0) or repainting everything (outside near 0).

    A task whose differences are finer or coarser than those of a sticker brings constants of its own, as a mapping
    `reference_evaluator` of fields of `ReferenceConfig` (without `blur`) in its metadata.
    """

    def __init__(self, config: ReferenceConfig | None = None) -> None:
        self.config = config or ReferenceConfig()

    async def evaluate(self, sample: EditSample) -> Score:
        """Score one sample; aspects are inside, outside and changed. A result of another size is resized first.

        Raises:
            EvaluatorError: target or mask is missing or of another size than the source, the mask is empty, source
                and target agree within it, or the task's own constants are wrong.
        """
        target, mask = _required(sample)
        if (own := sample.metadata.get(OWN_CONSTANTS)) is not None:
            return await self._of_task(own).evaluate(replace(sample, metadata={}))
        if sample.result is None:
            return Score(0.0, "There is no result.", {"inside": 0.0, "outside": 0.0, "changed": 0.0})
        return await asyncio.to_thread(self._score, sample.source, sample.result, target, mask)

    async def check_sample(self, sample: EditSample) -> None:
        """Score the source as the result; see `NeedsOfSamples.check_sample`. The outcome counts for any result."""
        await self.evaluate(replace(sample, result=sample.source))

    def _of_task(self, own: object) -> ReferenceEvaluator:
        """Return the evaluator with the constants that a task brings."""
        if not isinstance(own, Mapping) or "blur" in own:
            # Metadata may come from anybody, and a wide blur takes memory and time without bound.
            raise EvaluatorError(
                f"{OWN_CONSTANTS} in the metadata must be a mapping of fields of ReferenceConfig, not blur"
            )
        try:
            config = ReferenceConfig(**{**self.config.model_dump(), **own})
        except (ConfigError, TypeError) as fault:
            raise EvaluatorError(f"{OWN_CONSTANTS} in the metadata: {fault}") from fault
        if not all(math.isfinite(value) for value in config.model_dump().values()):
            raise EvaluatorError(f"{OWN_CONSTANTS} in the metadata: numbers must be finite")
        return ReferenceEvaluator(config)

    def _score(self, source: Image.Image, result: Image.Image, target: Image.Image, mask: Image.Image) -> Score:
        if result.size != source.size:
            result = result.resize(source.size, Image.Resampling.BICUBIC)
        within = np.asarray(mask.convert("L")) > 127
        if not within.any():
            raise EvaluatorError("the mask is empty: nothing would have to change")
        before, after, wanted = (np.asarray(on_white(image)) for image in (source, result, target))
        found = self._compare(before, after, wanted, within)
        aspects = {
            "inside": removed(self._error(found.source_errors), self._error(found.result_errors)),
            "outside": math.exp(-self.config.outside_decay * found.spoiled / within.size),
            "changed": float(found.moved > self.config.changed_tolerance),
        }
        return Score(100.0 * math.prod(aspects.values()), feedback(aspects), aspects)

    def _compare(self, before: Pixels, after: Pixels, wanted: Pixels, within: NDArray[np.bool_]) -> _Differences:
        """Return the distances that the formula asks for, gathered strip by strip."""
        # Beyond `area` the result equals the source, blurred too; beyond `near` the target does.
        must, by = bounds(within), reach(self.config.blur)
        area = grown(joint(must, difference(before, after)), by, within.shape)
        near = grown(joint(must, difference(before, wanted)), by, within.shape)
        reader = LabReader(self.config.blur, area, before.shape)
        whole = _SOURCES.whole(before, reader) if size_of(area) == within.shape else None
        harm, weight = np.empty(size_of(area), np.float32), self.config.lightness_weight
        moved, source_errors, result_errors = 0.0, [], []
        for strip in strips(area, STRIP):
            lab_source = reader.read(before, strip) if whole is None else whole[strip]
            lab_result = reader.read(after, strip)
            away = _distance(lab_result, lab_source)
            moved = max(moved, float(away.max()))
            if (part := common(strip, near)) is not None:
                local, inside, lab_target = relative(part, strip), within[part], reader.read(wanted, part)
                source_errors.append(_distance(lab_source[local], lab_target, weight)[inside])
                result_errors.append(_distance(lab_result[local], lab_target, weight)[inside])
                # The two differ outside of the mask only by the blur across its edge, not the agent's doing.
                away[local] = np.minimum(away[local], _distance(lab_result[local], lab_target))
                away[local][inside] = 0.0
            away -= self.config.outside_tolerance
            away /= self.config.outside_range
            np.clip(away, 0.0, 1.0, out=harm[relative(strip, area)])
        spoiled = float(harm.sum(dtype=np.float64))
        return _Differences(moved, spoiled, np.concatenate(source_errors), np.concatenate(result_errors))

    def _error(self, distances: Floats) -> float:
        error = np.maximum(distances - self.config.inside_tolerance, 0.0)
        return float((error / (error + self.config.inside_half)).mean())


def removed(before: float, after: float) -> float:
    """Return the share of the source's error within the mask that the result has removed, from 0 to 1.

    Args:
        before: error of the source.
        after: error of the result.

    Raises:
        EvaluatorError: there was none.
    """
    if before == 0:
        # Any result that differs from the source somewhere would pass for the edit.
        raise EvaluatorError("source and target agree within the mask: an edit that does nothing would look correct")
    return min(max(1.0 - after / before, 0.0), 1.0)


def _required(sample: EditSample) -> tuple[Image.Image, Image.Image]:
    if sample.target is None or sample.mask is None:
        raise EvaluatorError(
            "the reference evaluator needs the target and the mask of a task; use a judge without them"
        )
    for name, image in (("target", sample.target), ("mask", sample.mask)):
        if image.size != sample.source.size:
            raise EvaluatorError(f"the {name} is {image.size} but the source {sample.source.size} pixels")
    return sample.target, sample.mask


def _distance(a: Floats, b: Floats, lightness_weight: float = 1.0) -> Floats:
    import cv2

    away = cv2.subtract(a, b)
    cv2.multiply(away, away, dst=away)
    # OpenCV sums channels three times as fast as NumPy does.
    squares = cv2.transform(away, np.array([[lightness_weight**2, 1.0, 1.0]], np.float32))
    return np.asarray(cv2.sqrt(squares, dst=squares), dtype=np.float32)


def feedback(aspects: Mapping[str, float], *, has_target: bool = True) -> str:
    """Return a sentence on the weakest of the aspects inside, outside and changed.

    Args:
        aspects: each from 0 to 1.
        has_target: the wanted image is known, so that "inside" measures the distance to it.
    """
    if not aspects["changed"]:
        return "The image is unchanged."
    inside, outside = aspects["inside"], aspects["outside"]
    if min(inside, outside) >= 0.9:
        done = "The edit is done and the rest of the image is kept."
        return done if has_target else "Only the marked part has changed."
    if inside <= outside:
        left = f"{inside:.0%} of the difference to the wanted image is gone"
        return f"Weakest is the edit itself: {left if has_target else 'the marked part is as before'}."
    return f"Weakest is what should have stayed: parts outside of the edit changed ({outside:.0%} preservation)."
