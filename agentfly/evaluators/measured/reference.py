"""Score against a known answer: the edit inside the mask, and the rest of the image outside of it.

Only the regions of an image that can matter are computed: rectangles of its rows and columns.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators.base import EditSample, Score
from agentfly.images import on_white
from agentfly.settings import Settings

OWN_CONSTANTS = "reference_evaluator"  # in the metadata of a task
Floats = NDArray[np.float32]
Region = tuple[slice, slice]


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
        # Beyond `area` the result equals the source, blurred too; beyond `near` the target does.
        must, reach = bounds(within), _reach(self.config.blur)
        area = grown(joint(must, difference(before, after)), reach, within.shape)
        near = grown(joint(must, difference(before, wanted)), reach, within.shape)
        near = common(near, area)
        lab_source, lab_result = self._lab(before, area), self._lab(after, area)
        lab_target, local = self._lab(wanted, near), relative(near, area)
        moved = _distance(lab_result, lab_source)
        changed = float(moved.max() > self.config.changed_tolerance)
        # The two differ outside of the mask only by the blur across its edge, which is not the agent's doing.
        away = moved
        away[local] = np.minimum(moved[local], _distance(lab_result[local], lab_target))
        harm = np.clip((away - self.config.outside_tolerance) / self.config.outside_range, 0.0, 1.0)
        harm[within[area]] = 0.0
        aspects = {
            "inside": removed(
                self._error(lab_source[local], lab_target, within[near]),
                self._error(lab_result[local], lab_target, within[near]),
            ),
            "outside": math.exp(-self.config.outside_decay * float(harm.sum(dtype=np.float64)) / within.size),
            "changed": changed,
        }
        return Score(100.0 * math.prod(aspects.values()), feedback(aspects), aspects)

    def _lab(self, pixels: NDArray[np.uint8], region: Region) -> Floats:
        """Return a region of the blurred image in Lab; the blur takes in the pixels around it."""
        import cv2

        read = grown(region, _reach(self.config.blur), pixels.shape)
        part = np.divide(pixels[read], np.float32(255.0), dtype=np.float32)
        blurred = cv2.GaussianBlur(part, (0, 0), self.config.blur)
        return np.asarray(cv2.cvtColor(blurred[relative(region, read)], cv2.COLOR_RGB2LAB), dtype=np.float32)

    def _error(self, image: Floats, target: Floats, within: NDArray[np.bool_]) -> float:
        away = _distance(image, target, self.config.lightness_weight)[within]
        error = np.maximum(away - self.config.inside_tolerance, 0.0)
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


def _reach(blur: float) -> int:
    """Return the pixels that OpenCV's Gaussian kernel for float images reaches to each side, rounded up."""
    return math.ceil(4 * blur) + 1


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

    away = a - b
    # OpenCV sums channels three times as fast as NumPy does.
    squares = cv2.transform(cv2.multiply(away, away), np.array([[lightness_weight**2, 1.0, 1.0]], np.float32))
    return np.asarray(cv2.sqrt(squares), dtype=np.float32)


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


def bounds(matters: NDArray[np.bool_]) -> Region:
    """Return the smallest region with all pixels that are True (H, W), of which there is at least one."""
    rows, columns = (np.flatnonzero(matters.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Region | None:
    """Return the smallest region outside of which two images (H, W, C) are equal; None if they are equal everywhere."""
    import cv2

    away = cv2.absdiff(a, b)
    # Rows first: reducing the three channels of each pixel would take longer than all else.
    rows = np.flatnonzero(away.reshape(len(away), -1).any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(away.any(axis=0).any(axis=1))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def joint(a: Region, b: Region | None) -> Region:
    """Return the smallest region that holds both."""
    if b is None:
        return a
    rows, columns = (slice(min(x.start, y.start), max(x.stop, y.stop)) for x, y in zip(a, b, strict=True))
    return rows, columns


def common(a: Region, b: Region) -> Region:
    """Return the intersection of two regions that overlap."""
    rows, columns = (slice(max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(a, b, strict=True))
    return rows, columns


def grown(region: Region, by: int, shape: tuple[int, ...]) -> Region:
    """Return the region with `by` more pixels on each side, cut at the border of an image of this shape."""
    rows, columns = (
        slice(max(0, span.start - by), min(size, span.stop + by)) for span, size in zip(region, shape[:2], strict=True)
    )
    return rows, columns


def relative(inner: Region, outer: Region) -> Region:
    """Return a region in the coordinates of another one that holds it."""
    rows, columns = (slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))
    return rows, columns
