"""The engines of the model types, as worker processes load them."""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import Protocol

from agentfly.errors import ConfigError, NoGpuError, ToolError, require
from agentfly.serving.image_server.settings import EngineOptions
from agentfly.serving.image_server.workers.messages import Operation, Outcome, Work
from agentfly.vision.base import (
    Detections,
    Detector,
    Editor,
    EditParams,
    Inpainter,
    InpaintParams,
    edit_images,
    most_images,
)
from agentfly.vision.diffusion import TextRequest, TextToImage, WeightSettings


class WorkerEngine(Protocol):
    """The engine of a worker process.

    Attributes:
        name: of the engine in replies and in `/v1/models`.
        operations: that it offers; the server refuses all others.

    An engine that edits an image with others as references also has `max_images`, the images of a call at most.
    """

    name: str
    operations: frozenset[Operation]

    async def run(self, work: Work) -> Outcome:
        """Do one piece of work.

        Several calls run at once. An engine that cannot do that makes them wait for each other.

        Raises:
            ToolError: the work cannot be done; the message goes to the client.
        """
        ...


class ToolEngines:
    """The engines of the image tools: any of detector, inpainter and editor."""

    def __init__(
        self, *, detector: Detector | None = None, inpainter: Inpainter | None = None, editor: Editor | None = None
    ) -> None:
        self._detector, self._inpainter, self._editor = detector, inpainter, editor
        engines = {Operation.detect: detector, Operation.inpaint: inpainter, Operation.edit: editor}
        self.operations = frozenset(operation for operation, engine in engines.items() if engine is not None)
        self.name = " + ".join(dict.fromkeys(engine.name for engine in engines.values() if engine is not None))
        self.max_images = most_images(editor)

    async def run(self, work: Work) -> Outcome:
        """Pass the work to the engine of its operation.

        Raises:
            ToolError: there is no such engine, or it takes fewer images.
        """
        if work.operation is Operation.edit and work.images and self._editor is not None:
            guidance = work.guidance_scale if work.true_cfg_scale is None else work.true_cfg_scale
            editing = EditParams(work.negative_prompt, guidance, work.num_inference_steps, work.seed)
            return Outcome(await edit_images(self._editor, work.images, work.prompt, editing))
        if len(work.images) != 1:
            raise ToolError(f"this model works on one image a call, got {len(work.images)}: send one")
        image = work.images[0]
        if work.operation is Operation.detect and self._detector is not None:
            found = await self._detector.detect(
                image, work.prompt, box_threshold=work.box_threshold, text_threshold=work.text_threshold
            )
            best_rejected = found.best_rejected if isinstance(found, Detections) else None
            return Outcome(detections=tuple(found), best_rejected=best_rejected)
        if work.operation is Operation.inpaint and self._inpainter is not None and work.mask is not None:
            # Clients use both names for the one guidance that a pipeline has.
            guidance = work.true_cfg_scale if work.guidance_scale is None else work.guidance_scale
            inpainting = InpaintParams(
                work.negative_prompt, guidance, work.num_inference_steps, work.strength, work.seed
            )
            return Outcome(await self._inpainter.inpaint(image, work.mask, work.prompt, inpainting))
        raise ToolError(f"this server does not offer {work.operation.value}")


class TextEngine:
    """A text-to-image model."""

    operations = frozenset((Operation.generate,))

    def __init__(self, model: TextToImage) -> None:
        self._model = model
        self.name = model.name

    async def run(self, work: Work) -> Outcome:
        """Make the image of a prompt; without a seed it is that of seed 0."""
        own = {field.name: getattr(work, field.name) for field in fields(TextRequest)}
        return Outcome(await self._model.make(TextRequest(**{**own, "seed": work.seed or 0})))


def load_engine(options: EngineOptions) -> WorkerEngine:
    """Return the engine of a worker, with its weights on the device.

    Raises:
        ConfigError: the model cannot be found, or is of another kind; the message names the fix.
        MissingExtraError: a package that the engine needs is not installed.
    """
    if options.model_type == "classical":
        from agentfly.vision.classical import classical_engines

        embedded = classical_engines()
        return ToolEngines(detector=embedded.detector, inpainter=embedded.inpainter, editor=embedded.editor)
    try:
        if options.model_type == "custom":
            return _load_custom(options)
        if options.model_type == "detect":
            return _load_detector(options)
        if options.model_type == "sdxl" or (options.model_type == "generic" and _starts_from_text(options)):
            return _load_text_to_image(options)
        return _load_diffusion(options)
    except NoGpuError as fault:
        raise ConfigError(
            f"{options.device_flag}: torch sees no such GPU here (check nvidia-smi); leave the flag out, and the model "
            "runs on the CPU"
        ) from fault


def _load_detector(options: EngineOptions) -> WorkerEngine:
    from agentfly.vision.detection.grounding_dino import GroundingDinoDetector, GroundingDinoSettings

    detector = GroundingDinoDetector(GroundingDinoSettings(model=options.model_path, device=options.device))
    detector.load()
    if options.masks is None:
        return ToolEngines(detector=detector)
    from agentfly.vision.detection.segmentation import SamSegmenter, SamSettings, SegmentedDetector

    segmenter = SamSegmenter(SamSettings(model=options.masks, device=options.device))
    segmenter.load()
    return ToolEngines(detector=SegmentedDetector(detector, segmenter))


def _load_diffusion(options: EngineOptions) -> WorkerEngine:
    from agentfly.vision.diffusion import DiffusionEditor, DiffusionInpainter, EditorSettings, InpainterSettings

    common = options.model_dump(include={"device", "dtype", "offload", "compile", "area", "max_batch"})
    common["model"] = options.model_path
    if options.model_type == "inpaint":
        inpainter = DiffusionInpainter(InpainterSettings(**common))
        inpainter.load()
        return ToolEngines(inpainter=inpainter)
    lightning = options.model_dump(include={"use_fast", "use_ultra_fast"})
    editor = DiffusionEditor(EditorSettings(**common, **lightning, lightning_lora=options.lora))
    editor.load()
    return ToolEngines(editor=editor)


def _load_text_to_image(options: EngineOptions) -> WorkerEngine:
    if options.area is not None:
        raise ConfigError("--area is for models that start from an image: leave it out, requests have a size")
    chosen = options.model_dump(include={"device", "dtype", "offload", "compile"})
    model = TextToImage(WeightSettings(model=options.model_path, **chosen), max_batch=options.max_batch)
    model.load()
    return TextEngine(model)


def _starts_from_text(options: EngineOptions) -> bool:
    from agentfly.vision.diffusion.pipelines import class_name, role_class

    require("diffusers", "this model", "diffusion")
    pipeline = class_name(WeightSettings(model=options.model_path))
    try:
        role_class(pipeline, "generate", options.model_path)
    except ConfigError:
        return False
    return True


def _load_custom(options: EngineOptions) -> WorkerEngine:
    module, colon, function = options.model_path.partition(":")
    if not colon:
        raise ConfigError(f"--model-type custom needs --model-path package.module:function, got {options.model_path!r}")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as fault:
        raise ConfigError(f"cannot import {options.model_path!r}: {fault}") from fault
    engine: WorkerEngine = make(options)
    return engine
