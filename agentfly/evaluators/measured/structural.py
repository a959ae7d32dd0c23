"""Score photographs by structure and colour (SSIM and L1 in Lab) when only a target or only a mask is known.

`ReferenceEvaluator` needs both and is calibrated on an exact world. Here a target may differ from the source a little
everywhere, as generated images do, and a missing mask is taken from the difference of source and target.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from agentfly.errors import EvaluatorError
from agentfly.evaluators.base import EditSample, Score
from agentfly.evaluators.measured.reference import feedback, removed
from agentfly.images import on_white
from agentfly.settings import Settings

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
# Constants of SSIM for 8 bits (Wang et al. 2004): (0.01 * 255)^2 and (0.03 * 255)^2, and the sigma of its window.
_C1, _C2, _SIGMA = 6.5025, 58.5225, 1.5


class StructuralConfig(Settings):
    """Constants of the score.

    Attributes:
        colour_half: L1 distance in Lab at which two colours count as half different.
        inside_tolerance: difference inside the mask that counts as none.
        outside_tolerance: difference outside of the mask that counts as none.
        outside_decay: k in `outside = exp(-k * spoiled)`.
        mask_threshold: difference of source and target above which a pixel belongs to a mask that is not given.
        mask_margin: pixels by which such a mask grows, because edits have soft edges; also the width of the border
            around a given mask that is not judged where there is no target.
        touched_share: share of the mask that must differ from the source where there is no target.
        changed_tolerance: largest L1 distance in Lab of an image that counts as unchanged.
    """

    colour_half: float = Field(30.0, gt=0)
    inside_tolerance: float = Field(0.05, ge=0)
    outside_tolerance: float = Field(0.1, ge=0)
    outside_decay: float = Field(30.0, gt=0)
    mask_threshold: float = Field(0.2, gt=0, lt=1)
    mask_margin: int = Field(4, ge=0)
    touched_share: float = Field(0.25, gt=0, le=1)
    changed_tolerance: float = Field(3.0, ge=0)


@dataclass(frozen=True)
class _Image:
    """Terms of the difference of two images: Lab (blurred), grey, grey (blurred) and grey squared (blurred)."""

    lab: Floats
    grey: Floats
    mean: Floats
    square: Floats


class StructuralEvaluator:
    """Compares with the target, the mask, or both; `100 * inside * outside * changed`.

    For two images a and b, in each pixel, with SSIM on grey (Gaussian window of sigma 1.5, Wang et al. 2004), L1 the
    sum of the three absolute differences in CIE Lab, h = `colour_half` and [x] = min(max(x, 0), 1):

        D(a, b)   = (1 - [SSIM(a, b)]) / 2  +  (L1(a, b) / (L1(a, b) + h)) / 2
        M         = the mask; without one, D(source, target) > t_m, grown by a margin
        error(x)  = mean over M of max(0, D(x, target) - t_in)
        inside    = [1 - error(result) / error(source)]                                with a target
        inside    = [(share of M with D(result, source) > t_m) / touched_share]        without
        away      = min(D(result, source), D(result, target)), or the first alone without a target
        spoiled   = sum of max(0, away - t_out) over the pixels outside of M (and, without a target, of its margin)
                    / number of all pixels
        outside   = exp(-k * spoiled)
        changed   = 1 if L1(result, source) exceeds its tolerance anywhere, else 0

    Without a target, "inside" says that something was done in the right place, and not that it is the right thing:
    combine it with a judge (`CompositeEvaluator`).
    """

    def __init__(self, config: StructuralConfig | None = None) -> None:
        self.config = config or StructuralConfig()

    async def evaluate(self, sample: EditSample) -> Score:
        """Score one sample; aspects are inside, outside and changed. Images of other sizes are resized to the source.

        Raises:
            EvaluatorError: neither target nor mask is known, they mark nothing, or source and target agree there.
        """
        if sample.target is None and sample.mask is None:
            raise EvaluatorError("the structural evaluator needs a target or a mask; use a judge without them")
        if sample.result is None:
            return Score(0.0, "There is no result.", {"inside": 0.0, "outside": 0.0, "changed": 0.0})
        return await asyncio.to_thread(self._score, sample, sample.result)

    async def check_sample(self, sample: EditSample) -> None:
        """Score the source as the result; see `NeedsOfSamples.check_sample`. The outcome counts for any result."""
        await self.evaluate(replace(sample, result=sample.source))

    def _score(self, sample: EditSample, given: Image.Image) -> Score:
        source, result = _read(sample.source), _read(_fitted(given, sample.source))
        target = _read(_fitted(sample.target, sample.source)) if sample.target is not None else None
        goal = self._difference(source, target) if target is not None else None
        within = self._mask(sample, goal)
        moved = self._difference(result, source)
        if target is None or goal is None:
            touched = float((moved[within] > self.config.mask_threshold).mean())
            inside = min(touched / self.config.touched_share, 1.0)
            outside = self._outside(moved, self._grown(within))
        else:
            left = self._difference(result, target)
            before, after = (
                float(np.maximum(away[within] - self.config.inside_tolerance, 0.0).mean()) for away in (goal, left)
            )
            inside = removed(before, after)
            outside = self._outside(np.minimum(moved, left), within)
        changed = float(_l1(result, source).max() > self.config.changed_tolerance)
        aspects = {"inside": inside, "outside": outside, "changed": changed}
        return Score(100.0 * math.prod(aspects.values()), feedback(aspects, has_target=target is not None), aspects)

    def _difference(self, a: _Image, b: _Image) -> Floats:
        means = a.mean * b.mean
        powers = a.mean * a.mean + b.mean * b.mean
        covariance = _smooth(a.grey * b.grey) - means
        variances = a.square + b.square - powers
        ssim = ((2 * means + _C1) * (2 * covariance + _C2)) / ((powers + _C1) * (variances + _C2))
        colour = _l1(a, b)
        apart = (1.0 - np.clip(ssim, 0.0, 1.0)) / 2 + colour / (colour + self.config.colour_half) / 2
        return np.asarray(apart, dtype=np.float32)

    def _mask(self, sample: EditSample, goal: Floats | None) -> Bools:
        if sample.mask is not None:
            mask = sample.mask.convert("L")
            if mask.size != sample.source.size:
                mask = mask.resize(sample.source.size, Image.Resampling.NEAREST)
            within = np.asarray(mask) > 127
        else:
            assert goal is not None
            within = self._grown(goal > self.config.mask_threshold)
        if not within.any():
            raise EvaluatorError("nothing would have to change: the mask is empty, or the target equals the source")
        return within

    def _grown(self, within: Bools) -> Bools:
        import cv2

        side = 2 * self.config.mask_margin + 1
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        return np.asarray(cv2.dilate(within.astype(np.uint8), kernel) > 0)

    def _outside(self, away: Floats, within: Bools) -> float:
        harm = np.maximum(away - self.config.outside_tolerance, 0.0)
        harm[within] = 0.0
        return math.exp(-self.config.outside_decay * float(harm.mean()))


def _fitted(image: Image.Image, source: Image.Image) -> Image.Image:
    return image if image.size == source.size else image.resize(source.size, Image.Resampling.BICUBIC)


def _read(image: Image.Image) -> _Image:
    import cv2

    pixels = np.asarray(on_white(image))
    part = np.divide(pixels, np.float32(255.0), dtype=np.float32)
    lab = cv2.cvtColor(cv2.GaussianBlur(part, (0, 0), 1.0), cv2.COLOR_RGB2LAB)
    grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY) * np.float32(255.0)
    return _Image(lab, grey, _smooth(grey), _smooth(grey * grey))


def _smooth(values: Floats) -> Floats:
    import cv2

    return np.asarray(cv2.GaussianBlur(values, (11, 11), _SIGMA), dtype=np.float32)


def _l1(a: _Image, b: _Image) -> Floats:
    import cv2

    return np.asarray(cv2.transform(cv2.absdiff(a.lab, b.lab), np.ones((1, 3), np.float32)), dtype=np.float32)
