"""Score with any detector engine: an object must be gone, be present, or have a colour.

A task names its checks in `metadata["checks"]`: `{"gone": "red circle"}`, `{"present": "a dog"}`,
`{"colour": "blue", "of": "the car"}`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from agentfly.errors import EngineUnavailable, EvaluatorError, ToolError, unknown_name
from agentfly.evaluators.base import AsksOthers, EditSample, Score
from agentfly.images import on_white
from agentfly.settings import Settings
from agentfly.vision.base import Detection, Detector

# The basic colour terms of English (Berlin and Kay 1969) and, for each, some sRGB values that go by this name.
_COLOURS: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "black": ((15, 15, 15), (40, 40, 40)),
    "white": ((250, 250, 250), (225, 225, 225)),
    "grey": ((128, 128, 128), (90, 90, 90), (175, 175, 175)),
    "red": ((225, 30, 35), (160, 20, 25), (200, 60, 60)),
    "green": ((30, 165, 60), (20, 100, 40), (120, 200, 100)),
    "blue": ((35, 75, 225), (25, 40, 120), (90, 160, 235)),
    "yellow": ((250, 220, 40), (215, 190, 60), (255, 240, 130)),
    "orange": ((250, 140, 20), (220, 110, 30)),
    "purple": ((150, 50, 180), (90, 40, 120), (180, 130, 210)),
    "pink": ((250, 150, 190), (235, 90, 160)),
    "brown": ((120, 75, 40), (85, 55, 35), (160, 115, 75)),
}
_SYNONYMS = {"gray": "grey", "violet": "purple"}


@dataclass(frozen=True)
class Check:
    """One condition on the result.

    Attributes:
        kind: "gone", "present" or "colour".
        object: words for the object, as a detector takes them.
        colour: the colour that it must have; only for kind "colour".
    """

    kind: Literal["gone", "present", "colour"]
    object: str
    colour: str = ""

    @property
    def name(self) -> str:
        """Name of the check in the aspects."""
        return f"{self.kind}: {self.object}" if not self.colour else f"colour: {self.object} {self.colour}"

    def to_dict(self) -> dict[str, str]:
        """Return the check as it stands in `metadata["checks"]`."""
        return {"colour": self.colour, "of": self.object} if self.kind == "colour" else {self.kind: self.object}


class DetectorCheckSettings(Settings):
    """Thresholds of the detector and of the checks.

    Attributes:
        box_threshold, text_threshold: of the detector.
        overlap: share of a found object that must lie in the sample's mask, where there is one, for it to count.
        full_share: share of an object's pixels that must have the colour for a full score; a box without an outline
            contains much of the background.
    """

    box_threshold: float = Field(0.35, ge=0, le=1)
    text_threshold: float = Field(0.25, ge=0, le=1)
    overlap: float = Field(0.3, ge=0, le=1)
    full_share: float = Field(0.6, gt=0, le=1)


class DetectorCheckedEvaluator:
    """Checks what a detector sees; `100 * product of the checks`. With n(x) the objects found in image x:

        gone      [1 - n(result) / n(source)]: 1 when all of them are gone, and not scored if there were none
        present   1 if n(result) > n(source), else 0: one more than before, so that an old one does not count
        colour    [share of the object's pixels that have the colour / full_share], of the best object in the result

    Where the sample has a mask, "gone" and "present" count only objects that lie in it. A pixel has the colour of the
    nearest example in CIE Lab. The rest of the image is not scored: combine this with an evaluator that does so
    (`CompositeEvaluator`).

    Args:
        detector: any detector engine.
        settings: thresholds of the detector and of the checks.
    """

    def __init__(self, detector: Detector, settings: DetectorCheckSettings | None = None) -> None:
        self.detector = detector
        self.settings = settings or DetectorCheckSettings()

    async def evaluate(self, sample: EditSample) -> Score:
        """Score one sample; aspects are the checks.

        Raises:
            EvaluatorError: the task has no checks, or the detector cannot look for their objects.
        """
        checks = read_checks(sample.metadata.get("checks"))
        if sample.result is None:
            return Score(0.0, "There is no result.", {check.name: 0.0 for check in checks})
        result = sample.result
        if result.size != sample.source.size:
            result = result.resize(sample.source.size, Image.Resampling.BICUBIC)
        aspects = {check.name: await self._passed(check, sample, result) for check in checks}
        failed = [name for name, value in aspects.items() if value < 0.5]
        feedback = f"Not so: {'; '.join(failed)}." if failed else "All that was asked for can be seen."
        return Score(100.0 * math.prod(aspects.values()), feedback, aspects)

    async def check_ready(self) -> None:
        """Check the detector, if it is a model on a server; see `AsksOthers.check_ready`."""
        if not isinstance(self.detector, AsksOthers):
            return
        try:
            await self.detector.check_ready()
        except ToolError as fault:
            raise EvaluatorError(str(fault)) from fault

    async def check_sample(self, sample: EditSample) -> None:
        """Read the checks of the task; see `NeedsOfSamples.check_sample`."""
        read_checks(sample.metadata.get("checks"))

    async def _passed(self, check: Check, sample: EditSample, result: Image.Image) -> float:
        after = await self._find(result, check.object)
        if check.kind == "colour":
            shape = np.asarray(after[0].mask) > 127 if after else np.zeros((1, 1), np.bool_)
            if not shape.any():
                return 0.0
            pixels = np.asarray(on_white(result))[shape]
            names = await asyncio.to_thread(nearest_colours, pixels)
            return min(float((names == check.colour).mean()) / self.settings.full_share, 1.0)
        before = await self._find(sample.source, check.object)
        old, new = (self._counted(found, sample.mask) for found in (before, after))
        if check.kind == "present":
            return float(new > old)
        if not old:
            raise EvaluatorError(
                f"the detector {self.detector.name} sees no {check.object!r} in the source, so it cannot tell whether "
                "it is gone: lower box_threshold, use other words, or another evaluator"
            )
        return min(max(1.0 - new / old, 0.0), 1.0)

    async def _find(self, image: Image.Image, words: str) -> Sequence[Detection]:
        try:
            return await self.detector.detect(
                image,
                words,
                box_threshold=self.settings.box_threshold,
                text_threshold=self.settings.text_threshold,
            )
        except EngineUnavailable:
            raise EvaluatorError(f"the detector {self.detector.name} does not know {words!r}: use another") from None
        except ToolError as fault:
            raise EvaluatorError(f"the detector {self.detector.name} cannot look for {words!r}: {fault}") from fault

    def _counted(self, found: Sequence[Detection], mask: Image.Image | None) -> int:
        if mask is None:
            return len(found)
        wanted = np.asarray(mask.convert("L")) > 127
        pixels = [np.asarray(one.mask) > 127 for one in found]
        shares = (float((one & wanted).sum()) / one.sum() if one.any() else 0.0 for one in pixels)
        return sum(share >= self.settings.overlap for share in shares)


def read_checks(given: object) -> list[Check]:
    """Return the checks of a task's metadata.

    Raises:
        EvaluatorError: there are none, or one has an unknown form; the message shows the forms.
    """
    forms = '{"gone": "a cat"}, {"present": "a dog"} or {"colour": "blue", "of": "the car"}'
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise EvaluatorError(f'the task names no checks: give metadata["checks"] as a list of {forms}')
    checks: list[Check] = []
    for entry in given:
        # Rows of a data set have every key in every entry, with None where it does not apply.
        words = {key: value for key, value in entry.items() if value} if isinstance(entry, Mapping) else {}
        if not all(isinstance(value, str) for value in words.values()):
            words = {}
        if words.keys() == {"gone"}:
            checks.append(Check("gone", words["gone"]))
        elif words.keys() == {"present"}:
            checks.append(Check("present", words["present"]))
        elif words.keys() == {"colour", "of"}:
            colour = _SYNONYMS.get(words["colour"].lower(), words["colour"].lower())
            if colour not in _COLOURS:
                raise EvaluatorError(unknown_name("colour", words["colour"], _COLOURS))
            checks.append(Check("colour", words["of"], colour))
        else:
            raise EvaluatorError(f"{entry!r} is no check: give {forms}")
    return checks


def nearest_colours(pixels: NDArray[np.uint8]) -> NDArray[np.str_]:
    """Return the basic colour term of each pixel (N, 3) of sRGB."""
    names, examples = _examples()
    away = ((_lab(pixels)[:, None, :] - examples[None]) ** 2).sum(axis=2)
    return names[away.argmin(axis=1)]


@lru_cache(maxsize=1)
def _examples() -> tuple[NDArray[np.str_], NDArray[np.float32]]:
    pairs = [(name, value) for name, values in _COLOURS.items() for value in values]
    return np.array([name for name, _ in pairs]), _lab(np.array([value for _, value in pairs], np.uint8))


def _lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    import cv2

    return np.asarray(cv2.cvtColor(pixels[None].astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)[0], dtype=np.float32)
