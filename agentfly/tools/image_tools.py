"""The image tools of the agent: detect, inpaint, both at once, edit, and the answer.

A tool takes images by their names in the chain's view and returns new names. Observations are short and regular, so
that small policies can read them; all details are in `ToolResult.data`. Refusals of engines reach the model unchanged.

The docstrings of the tools are their schemas, and policies are trained on them: do not change a word of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from agentfly.errors import ImageError, ToolError, shortened
from agentfly.images import ImageView, read_mask
from agentfly.tools.decorator import ToolResult, tool
from agentfly.tools.image_ids import answerable, editable, handle_of_id
from agentfly.vision.base import Detection, Detections, EditParams, Engines, InpaintParams, given_params
from agentfly.vision.detection.boxes import draw_detections

Threshold = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=0, le=256)]
Scale = Annotated[float, Field(ge=0, le=100)] | None
Steps = Annotated[int, Field(ge=1, le=200)] | None
Strength = Annotated[float, Field(gt=0, le=1)] | None
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)] | None

_MAX_LISTED = 8
_MAX_PROMPT = 2000


class ImageTools:
    """Tools on the images of one chain.

    Args:
        images: the images that the chain can name; new ones are added to it.
        engines: the engines that do the work.
    """

    def __init__(self, images: ImageView, engines: Engines) -> None:
        self._images = images
        self._engines = engines

    @tool(looks=True)
    async def detect_objects(
        self,
        image_id: str,
        text_prompt: str,
        box_threshold: Threshold = 0.35,
        text_threshold: Threshold = 0.25,
        auto_mask_dilate: Pixels = 0,
        auto_mask_feather: Pixels = 0,
    ) -> ToolResult:
        """Find what a text names. Gives one mask of all objects found, and their scores and boxes.

        Args:
            image_id: the picture to look at.
            text_prompt: what to find, in a few words.
            box_threshold: lowest score of an object.
            text_threshold: lowest score of a word of its label.
            auto_mask_dilate: pixels by which the mask grows.
            auto_mask_feather: pixels over which the edge of the mask is softened.
        """
        check_prompt("text_prompt", text_prompt, "name what to find, for example 'a dog'")
        limits = (box_threshold, text_threshold, auto_mask_dilate, auto_mask_feather)
        image = await self._load(image_id)
        found, mask, data = await self._detect(image, text_prompt, *limits)
        handle = await self._store(mask)
        name = self._images.add_handle(handle, "mask")
        text, shown = f"{name}: {_listed(found, boxes=True)}", [handle]
        made_by = self._engines.detector.name
        # Decided by the maker of this detection, so that an image server shows the same as the engines here.
        if self._engines.draws_boxes and not made_by.endswith("classical"):
            drawn = await self._store(await asyncio.to_thread(draw_detections, image, found))
            shown.append(drawn)
            text += f"; drawn in {self._images.add_handle(drawn, 'boxes')}"
        return ToolResult(text, tuple(shown), made_by, data=data)

    @tool
    async def inpaint_image(
        self,
        image_id: str,
        mask_id: str,
        prompt: str,
        negative_prompt: str | None = None,
        guidance_scale: Scale = None,
        num_inference_steps: Steps = None,
        strength: Strength = None,
        seed: Seed = None,
    ) -> ToolResult:
        """Repaint what a mask covers. An empty prompt removes what is there.

        Args:
            image_id: the picture to change.
            mask_id: the mask, white where the picture changes.
            prompt: what to paint.
            negative_prompt: what to avoid.
            guidance_scale: how closely to follow the prompt.
            num_inference_steps: more steps give better quality.
            strength: 1 repaints fully, less keeps some of the old.
            seed: the same seed gives the same picture.
        """
        check_prompt("prompt", prompt)
        image, mask = await self._load_to_edit(image_id), await self._load(mask_id)
        if image.size != mask.size:
            raise ToolError(
                f"{mask_id} is {mask.width}x{mask.height} but {image_id} is {image.width}x{image.height}: "
                f"detect on {image_id} to get a mask of its size"
            )
        detected = self._images.name(mask_id).startswith("mask_")
        white = await asyncio.to_thread(_to_mask, mask, mask_id, image_id, detected)
        params = InpaintParams(negative_prompt, guidance_scale, num_inference_steps, strength, seed)
        painted = await self._engines.inpainter.inpaint(image, white, prompt, params)
        return await self._changed(image_id, painted, "", self._engines.inpainter.name, given_params(params))

    @tool
    async def auto_inpaint_image(
        self,
        image_id: str,
        detect_prompt: str,
        prompt: str,
        box_threshold: Threshold = 0.35,
        text_threshold: Threshold = 0.25,
        auto_mask_dilate: Pixels = 0,
        auto_mask_feather: Pixels = 0,
        negative_prompt: str | None = None,
        guidance_scale: Scale = None,
        num_inference_steps: Steps = None,
        strength: Strength = None,
        seed: Seed = None,
    ) -> ToolResult:
        """Find what a text names and repaint it, in one call. An empty prompt removes it.

        Args:
            image_id: the picture to change.
            detect_prompt: what to find, in a few words.
            prompt: what to paint there.
            box_threshold: lowest score of an object.
            text_threshold: lowest score of a word of its label.
            auto_mask_dilate: pixels by which the mask grows.
            auto_mask_feather: pixels over which the edge of the mask is softened.
            negative_prompt: what to avoid.
            guidance_scale: how closely to follow the prompt.
            num_inference_steps: more steps give better quality.
            strength: 1 repaints fully, less keeps some of the old.
            seed: the same seed gives the same picture.
        """
        check_prompt("detect_prompt", detect_prompt, "name what to find, for example 'a dog'")
        check_prompt("prompt", prompt)
        limits = (box_threshold, text_threshold, auto_mask_dilate, auto_mask_feather)
        image = await self._load_to_edit(image_id)
        found, mask, data = await self._detect(image, detect_prompt, *limits)
        params = InpaintParams(negative_prompt, guidance_scale, num_inference_steps, strength, seed)
        painted = await self._engines.inpainter.inpaint(image, mask, prompt, params)
        data |= {"mask": await self._store(mask), **given_params(params)}
        names = dict.fromkeys((self._engines.detector.name, self._engines.inpainter.name))
        return await self._changed(image_id, painted, _listed(found), " + ".join(names), data)

    @tool
    async def qwen_edit_image(
        self,
        image_id: str,
        prompt: str,
        negative_prompt: str | None = None,
        true_cfg_scale: Scale = None,
        num_inference_steps: Steps = None,
        seed: Seed = None,
    ) -> ToolResult:
        """Edit the whole picture as an instruction says.

        Args:
            image_id: the picture to change.
            prompt: the instruction.
            negative_prompt: what to avoid.
            true_cfg_scale: how closely to follow the instruction.
            num_inference_steps: more steps give better quality.
            seed: the same seed gives the same picture.
        """
        check_prompt("prompt", prompt, "say what to change")
        image = await self._load_to_edit(image_id)
        params = EditParams(negative_prompt, true_cfg_scale, num_inference_steps, seed)
        edited = await self._engines.editor.edit(image, prompt, params)
        return await self._changed(image_id, edited, "", self._engines.editor.name, given_params(params))

    @tool(final=True)
    async def give_answer(self, final_image_id: str, description: str = "") -> ToolResult:
        """Finish with the picture that answers the request.

        Args:
            final_image_id: the finished picture.
            description: what was done, in a sentence.
        """
        handle = answerable(self._images, final_image_id)
        return ToolResult(description or self._images.name(handle), (handle,), final=True)

    async def _load(self, image_id: str) -> Image.Image:
        return await asyncio.to_thread(self._images.store.get, handle_of_id(self._images, image_id))

    async def _load_to_edit(self, image_id: str) -> Image.Image:
        return await asyncio.to_thread(editable, self._images, image_id)

    async def _store(self, image: Image.Image) -> str:
        return await asyncio.to_thread(self._images.store.put, image)

    async def _detect(
        self, image: Image.Image, prompt: str, box_threshold: float, text_threshold: float, dilate: int, feather: int
    ) -> tuple[Sequence[Detection], Image.Image, dict[str, object]]:
        """Return the objects found in an image, their mask, and the details of the detection for the result."""
        found = await self._engines.detector.detect(
            image, prompt, box_threshold=box_threshold, text_threshold=text_threshold
        )
        if not found:
            best = found.best_rejected if isinstance(found, Detections) else None
            score = "" if best is None else f" (best score {best:.2f})"
            raise ToolError(
                f"no {shortened(prompt)!r} found with box_threshold {box_threshold:g}{score}: "
                "lower box_threshold or use other words"
            )
        mask = await asyncio.to_thread(make_mask, [detection.mask for detection in found], dilate, feather)
        data: dict[str, object] = {
            "objects": [{"label": d.label, "score": round(d.score, 4), "box": list(d.box)} for d in found],
            "box_threshold": box_threshold,
            "text_threshold": text_threshold,
            "auto_mask_dilate": dilate,
            "auto_mask_feather": feather,
        }
        return found, mask, data

    async def _changed(
        self, image_id: str, image: Image.Image, words: str, engine: str, data: dict[str, object]
    ) -> ToolResult:
        """Return the observation of a changed image; one that did not change is not shown again."""
        handle, source = await self._store(image), handle_of_id(self._images, image_id)
        name, data = self._images.add_handle(handle), {**data, "source": source}
        if handle == source:
            return ToolResult(f"{name}: nothing changed", (), engine, data=data)
        return ToolResult(f"{name}: {words}" if words else name, (handle,), engine, data=data)


def check_prompt(name: str, prompt: str, ask: str | None = None) -> None:
    """Raise `ToolError` for a prompt that no engine can use; `ask` is the remedy for an empty one, None allows it."""
    if ask is not None and not prompt.strip():
        raise ToolError(f"{name} is empty: {ask}")
    if len(prompt) > _MAX_PROMPT:
        raise ToolError(f"{name} has {len(prompt)} characters, at most {_MAX_PROMPT} are taken: shorten it")


def _to_mask(mask: Image.Image, mask_id: str, image_id: str, detected: bool) -> Image.Image:
    """Return an image as a mask of mode L, or raise `ToolError` with the reason why it is none."""
    # A softened mask of a detection may hold small numbers only, which are no labels.
    if not detected:
        try:
            mask = read_mask(mask).image
        except ImageError as fault:
            kind = "grey" if mask.mode == "L" else "colour"
            raise ToolError(
                f"{mask_id} is a {kind} picture, not a mask: call detect_objects on {image_id} to get one"
            ) from fault
    if mask.getbbox() is None:
        raise ToolError(f"{mask_id} is black, so nothing would change: detect again, with a lower box_threshold")
    return mask


def make_mask(masks: Sequence[Image.Image], dilate: int, feather: int) -> Image.Image:
    """Return the union of masks, grown and softened, as a mask of mode L, white = change.

    Args:
        masks: at least one, all of one size.
        dilate: radius in pixels of the ellipse by which the union grows.
        feather: sigma in pixels of the Gaussian by which its edge is softened.
    """
    import cv2

    values = np.maximum.reduce([np.asarray(mask.convert("L")) for mask in masks])
    if dilate:
        size = 2 * dilate + 1
        values = cv2.dilate(values, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    if feather:
        values = cv2.GaussianBlur(values, (0, 0), feather)
    return Image.fromarray(np.asarray(values, dtype=np.uint8))


def _listed(found: Sequence[Detection], *, boxes: bool = False) -> str:
    texts = [f"{d.label} {d.score:.2f}" + (f" {list(d.box)}" if boxes else "") for d in found[:_MAX_LISTED]]
    more = f", {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
    return ", ".join(texts) + more
