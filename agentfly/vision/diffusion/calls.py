"""Translate requests to calls of any pipeline class: names of its arguments, sizes, batches.

The arguments of a pipeline are read from the signature of its call. A setting that the pipeline has no parameter for is
an error that the model can act on, and never ignored.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from agentfly.errors import ToolError
from agentfly.vision.diffusion.batching import Abandoned, Stopped
from agentfly.vision.diffusion.pipelines import has_own_size, own_size

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    StepCallback = Callable[[DiffusionPipeline, int, torch.Tensor, dict[str, torch.Tensor]], dict[str, torch.Tensor]]

# Classes that read a list of images as one image to edit and references for it.
REFERENCES = frozenset(("QwenImageEditPlusPipeline",))
# Classes whose calls take lists of images, prompts and generators, one for each image.
BATCHING = frozenset(
    (
        "StableDiffusionInpaintPipeline",
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusionInstructPix2PixPipeline",
        "FluxFillPipeline",
        "QwenImageEditPipeline",
        "QwenImageEditInpaintPipeline",
    )
)
_TRAINED_AREA = 1024 * 1024


@dataclass(frozen=True)
class Plan:
    """The settings of a call; requests with equal plans can go together.

    Attributes:
        size: width and height of the images handed to the pipeline.
        steps: denoising steps.
        guidance: guidance scale; None is the pipeline's default.
        strength: None is the pipeline's default.
    """

    size: tuple[int, int]
    steps: int
    guidance: float | None = None
    strength: float | None = None


@dataclass(frozen=True, eq=False)
class Order:
    """One image to make.

    Attributes:
        image: the source, RGB, any size.
        prompt: what to paint, or the instruction.
        seed: of its noise, which does not depend on the batch.
        mask: mode L, white = repaint; None where there is none.
        negative_prompt: what to avoid.
        references: further images that the instruction refers to, RGB, any sizes.
    """

    image: Image.Image
    prompt: str
    seed: int
    mask: Image.Image | None = None
    negative_prompt: str | None = None
    references: tuple[Image.Image, ...] = ()


class Caller:
    """Plans and makes the calls of one pipeline class.

    Args:
        template: a pipeline of that class, with its weights.
        area: pixels to work at; None is the area of the model's training.
    """

    def __init__(self, template: DiffusionPipeline, area: int | None = None) -> None:
        self.name = type(template).__name__
        self.parameters = inspect.signature(type(template).__call__).parameters
        self.batches = self.name in BATCHING
        self.takes_references = self.name in REFERENCES
        self._own_size = has_own_size(type(template))
        self._template = type(template)
        unet = template.components.get("unet")
        trained = (unet.config.sample_size * template.vae_scale_factor) ** 2 if unet is not None else _TRAINED_AREA
        self._area = area or trained
        # Transformers take patches of two by two latents.
        self._multiple = template.vae_scale_factor * (1 if unet is not None else 2)
        transformer = template.components.get("transformer")
        distilled = transformer is not None and bool(transformer.config.get("guidance_embeds"))
        self._guidance_names = (
            ("guidance_scale", "true_cfg_scale") if distilled else ("true_cfg_scale", "guidance_scale")
        )

    def plan(self, size: tuple[int, int], steps: int | None, guidance: float | None, strength: float | None) -> Plan:
        """Return the plan for a request.

        Args:
            size: width and height of the source in pixels.
            steps: denoising steps; None is the pipeline's default.
            guidance: guidance scale; None is the pipeline's default.
            strength: amount of noise, 0 to 1; None is the pipeline's default.

        Raises:
            ToolError: the pipeline has no such setting, or strength and steps leave nothing to do.
        """
        steps = self.parameters["num_inference_steps"].default if steps is None else steps
        if strength is not None and "strength" not in self.parameters:
            if strength != 1.0:
                raise ToolError(f"{self.name} has no strength: leave it out")
            strength = None
        if "strength" in self.parameters:
            used = self.parameters["strength"].default if strength is None else strength
            if int(steps * used) < 1:
                raise ToolError(
                    f"strength {used:g} of {steps} steps leaves no step to do: raise strength or num_inference_steps"
                )
        if not self._own_size:
            scale = math.sqrt(self._area / (size[0] * size[1]))
            width, height = (max(1, round(side * scale / self._multiple)) * self._multiple for side in size)
            size = (width, height)
        return Plan(size, steps, guidance, strength)

    def check_negative(self, negative_prompt: str | None) -> None:
        """Raise `ToolError` for a negative prompt that the pipeline does not take.

        Raises:
            ToolError: it takes none; the message names the remedy.
        """
        if negative_prompt and "negative_prompt" not in self.parameters:
            raise ToolError(f"{self.name} takes no negative_prompt: leave it out, and say what you want in the prompt")

    def run(
        self, pipeline: DiffusionPipeline, plan: Plan, orders: Sequence[Order], abandoned: Abandoned
    ) -> list[Image.Image | None]:
        """Make the images of one batch.

        Args:
            pipeline: of the template's class, for this call alone.
            plan: settings of all orders.
            orders: the images to make.
            abandoned: True once no caller waits for the batch.

        Returns:
            An image for each order; None for one that the model's safety checker withheld.

        Raises:
            Stopped: no caller waits for the batch any more.
        """
        import torch

        if abandoned():
            raise Stopped
        with torch.inference_mode():
            output = pipeline(**self.arguments(plan, orders, abandoned))
        withheld = output.get("nsfw_content_detected") or [False] * len(orders)
        return [None if bad else image for image, bad in zip(output["images"], withheld, strict=True)]

    def arguments(self, plan: Plan, orders: Sequence[Order], abandoned: Abandoned) -> dict[str, object]:
        """Return the arguments of the pipeline's call for a batch; see `run`."""
        import torch

        each: dict[str, Sequence[object]] = {
            "image": [_resized(order.image, plan.size) for order in orders],
            "prompt": [order.prompt for order in orders],
            # Noise from the CPU is the same on every device, and each image has its own.
            "generator": [torch.Generator().manual_seed(order.seed) for order in orders],
            "negative_prompt": self._negatives(plan, orders),
        }
        if "mask_image" in self.parameters:
            each["mask_image"] = [_resized(order.mask, plan.size) for order in orders if order.mask is not None]
        shared: dict[str, object] = {
            "num_inference_steps": plan.steps,
            "strength": plan.strength,
            self._guidance_name: plan.guidance,
            "callback_on_step_end": stop_callback(abandoned),
        }
        if not self._own_size:
            width, height = plan.size
            # Flux Kontext would otherwise replace the size by one of its list.
            shared |= {"width": width, "height": height, "max_area": width * height, "_auto_resize": False}
        given = {name: values if self.batches else values[0] for name, values in each.items() if values}
        given |= {name: value for name, value in shared.items() if value is not None}
        if (references := orders[0].references) and self.takes_references:
            # The result would otherwise have the shape of the last reference.
            width, height = own_size(self._template, orders[0].image.size)
            given |= {"image": [orders[0].image, *references], "width": width, "height": height}
        return {name: value for name, value in given.items() if name in self.parameters}

    @property
    def _guidance_name(self) -> str:
        return next((name for name in self._guidance_names if name in self.parameters), "guidance_scale")

    def _negatives(self, plan: Plan, orders: Sequence[Order]) -> list[str]:
        """Return the negative prompts; none where there is no guidance that would use them."""
        if "true_cfg_scale" not in self.parameters:
            return [order.negative_prompt or "" for order in orders]
        scale = self.parameters["true_cfg_scale"].default
        if self._guidance_name == "true_cfg_scale" and plan.guidance is not None:
            scale = plan.guidance
        # Qwen-Image guides only where there is a negative prompt; a blank will do.
        return [order.negative_prompt or " " for order in orders] if scale > 1 else []


def stop_callback(abandoned: Abandoned) -> StepCallback:
    """Return a callback for the end of a denoising step that raises `Stopped` once a batch is abandoned."""

    def stop_if_abandoned(
        pipeline: DiffusionPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        if abandoned():
            raise Stopped
        return tensors

    return stop_if_abandoned


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    # A smoother filter would give a mask grey values between 0 and 255.
    return image.resize(size, Image.Resampling.NEAREST if image.mode == "L" else Image.Resampling.LANCZOS)
