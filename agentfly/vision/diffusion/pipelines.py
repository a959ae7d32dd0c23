"""Pipelines by their `model_index.json`: one copy of the weights, a fresh pipeline and scheduler for each call.

A diffusers pipeline keeps the state of a call in itself and in its scheduler, so one object must never run two calls at
once. The weights are shared. The VAE keeps features of a call in attributes, so each call has a VAE of its own on them.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Literal
from weakref import WeakValueDictionary

from agentfly.errors import ConfigError, require
from agentfly.model_source import check_folder, find_model, is_local
from agentfly.vision.diffusion.lightning import fuse_lora, make_fast
from agentfly.vision.diffusion.settings import WeightSettings
from agentfly.vision.model_runtime import loading, resolve_device, resolve_dtype, short_name

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

logger = logging.getLogger(__name__)

Role = Literal["inpaint", "edit", "generate", "vary"]

# Pixels at which the Qwen-Image editing pipelines work.
_OWN_AREA = 1024 * 1024
_INDEX = "model_index.json"
_WANTED = "a diffusers pipeline"
# Checkpoints that serve another role, too, through another class on the same parts.
_SIBLINGS: dict[tuple[str, Role], str] = {
    ("StableDiffusionPipeline", "inpaint"): "StableDiffusionInpaintPipeline",
    ("StableDiffusionXLPipeline", "inpaint"): "StableDiffusionXLInpaintPipeline",
    ("StableDiffusionPipeline", "vary"): "StableDiffusionImg2ImgPipeline",
    ("StableDiffusionXLPipeline", "vary"): "StableDiffusionXLImg2ImgPipeline",
    ("StableDiffusion3Pipeline", "vary"): "StableDiffusion3Img2ImgPipeline",
    ("FluxPipeline", "vary"): "FluxImg2ImgPipeline",
    ("QwenImagePipeline", "vary"): "QwenImageImg2ImgPipeline",
    ("QwenImageEditPipeline", "inpaint"): "QwenImageEditInpaintPipeline",
    ("QwenImageEditInpaintPipeline", "edit"): "QwenImageEditPipeline",
    ("FluxKontextPipeline", "inpaint"): "FluxKontextInpaintPipeline",
    ("FluxKontextInpaintPipeline", "edit"): "FluxKontextPipeline",
}
_EXAMPLES: dict[Role, str] = {
    "inpaint": "an inpainting model, such as diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
    "edit": "an editing model, such as Qwen/Qwen-Image-Edit",
    "generate": "a model that starts from text, such as stabilityai/stable-diffusion-xl-base-1.0",
    "vary": "a model such as stabilityai/stable-diffusion-xl-base-1.0",
}


class Weights:
    """One copy of a checkpoint's weights, and the pipelines that run on it. Loads at the first use.

    Args:
        settings: of the weights.
        pipeline: one that is loaded already and on its device; `settings` then only name it, and load nothing.

    Raises:
        MissingExtraError: diffusers is not installed.
        ConfigError: the folder is no diffusers pipeline.
    """

    def __init__(self, settings: WeightSettings, pipeline: DiffusionPipeline | None = None) -> None:
        require("diffusers", "a diffusion engine", "diffusion")
        if pipeline is None:
            check_folder(settings.model, _INDEX, _WANTED)
        self.settings = settings
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(settings.concurrency)
        self._base = pipeline
        self._templates: dict[Role, DiffusionPipeline] = {}

    @property
    def name(self) -> str:
        """Name of an engine on these weights."""
        steps = self.settings.lightning_steps
        return short_name(self.settings.model) + (f" lightning-{steps}" if steps else "")

    def template(self, role: Role) -> DiffusionPipeline:
        """Return the pipeline that those for a role are copied from; loading takes seconds to minutes.

        Raises:
            ConfigError: the checkpoint cannot be loaded, or cannot do this.
        """
        with self._lock:
            if role not in self._templates:
                import diffusers

                native = class_name(self.settings) if self._base is None else type(self._base).__name__
                name = role_class(native, role, self.settings.model)
                if self._base is None:
                    self._base = _load(self.settings)
                self._templates[role] = _in_role(self._base, getattr(diffusers, name), self.settings)
            return self._templates[role]

    @contextmanager
    def fresh(self, role: Role) -> Iterator[DiffusionPipeline]:
        """Give a pipeline for one call, once fewer calls than allowed run on the weights."""
        template = self.template(role)
        with self._slots:
            pipeline = copy.copy(template)
            pipeline.scheduler = type(template.scheduler).from_config(template.scheduler.config)
            # The same weights with attributes of its own: causal VAEs keep the features of earlier frames in some
            # (diffusers/models/autoencoders/autoencoder_kl_qwenimage.py:783), and calls side by side mixed theirs.
            pipeline.vae = copy.copy(template.vae)
            try:
                yield pipeline
            finally:
                # A call that ended early leaves offloaded parts on the GPU; after any other call this has no effect.
                pipeline.maybe_free_model_hooks()


_SHARED: WeakValueDictionary[WeightSettings, Weights] = WeakValueDictionary()
_SHARING = threading.Lock()


def shared_weights(settings: WeightSettings) -> Weights:
    """Return the one copy of these weights in the process, which lives as long as an engine uses it."""
    with _SHARING:
        weights = _SHARED.get(settings)
        if weights is None:
            weights = _SHARED[settings] = Weights(settings)
        return weights


def class_name(settings: WeightSettings) -> str:
    """Return the name of the pipeline class in `model_index.json`.

    Raises:
        ConfigError: the file cannot be read, or names none.
    """
    source = find_model(settings.model, _INDEX, _WANTED, revision=settings.revision)
    with loading(settings.model, _WANTED):
        if is_local(source):
            path = Path(source).expanduser() / _INDEX
        else:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(settings.model, _INDEX, revision=settings.revision))
        name = json.loads(path.read_text(encoding="utf-8")).get("_class_name")
    if not isinstance(name, str):
        raise ConfigError(f"{_INDEX} of {settings.model!r} names no pipeline class: give {_WANTED}")
    return name


def role_class(native: str, role: Role, model: str) -> str:
    """Return the name of the pipeline class that does a role with a checkpoint.

    Args:
        native: the class that the checkpoint names.
        role: of the pipeline.
        model: name of the checkpoint, for messages.

    Raises:
        ConfigError: diffusers has no such class, or it does something else; the message names a model that fits.
    """
    import diffusers

    name = _SIBLINGS.get((native, role), native)
    try:
        taken = inspect.signature(getattr(diffusers, name).__call__).parameters
    except AttributeError as fault:
        raise ConfigError(
            f"diffusers {diffusers.__version__} has no {name}, which {model!r} needs: give {_EXAMPLES[role]}"
        ) from fault
    given = {name for name in ("image", "mask_image") if name in taken}
    needed = {"inpaint": {"image", "mask_image"}, "generate": set[str]()}.get(role, {"image"})
    if "prompt" not in taken or given != needed:
        raise ConfigError(f"{model!r} is a {native}, which cannot {role}: give {_EXAMPLES[role]}")
    return name


def _load(settings: WeightSettings) -> DiffusionPipeline:
    from diffusers import DiffusionPipeline

    device = resolve_device(settings.device)
    source = find_model(settings.model, _INDEX, _WANTED, revision=settings.revision)
    with loading(settings.model, _WANTED):
        pipeline = DiffusionPipeline.from_pretrained(
            source, revision=settings.revision, dtype=resolve_dtype(settings.dtype, device)
        )
    vae = pipeline.components["vae"]
    # A call of SDXL casts such a VAE to float32 and back, while another call may use it.
    if settings.concurrency > 1 and vae.config.get("force_upcast") and str(vae.dtype) != "torch.float32":
        raise ConfigError(
            f"the VAE of {settings.model!r} changes its type within a call: use concurrency=1 (requests are batched "
            "all the same) or dtype='float32'"
        )
    if settings.lora is not None:
        fuse_lora(pipeline, settings.lora)
    if settings.lightning_steps is not None:
        make_fast(pipeline, settings.model, settings.lightning_lora, settings.lightning_steps)
    if settings.compile:
        denoiser = pipeline.components.get("transformer") or pipeline.components["unet"]
        # Dynamic, because sizes of images and prompts differ from call to call.
        if denoiser._repeated_blocks:
            denoiser.compile_repeated_blocks(dynamic=True)
        else:
            denoiser.compile(dynamic=True)
    _place(pipeline, settings, device)
    logging.getLogger("diffusers.models.modeling_utils").addFilter(_is_worth_logging)
    logger.info("loaded %s (%s) on %s", settings.model, type(pipeline).__name__, device)
    return pipeline


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Return False for the warning of diffusers at every call of SDXL that it casts an empty list of modules."""
    return "kept in float32: []" not in record.getMessage()


def _place(pipeline: DiffusionPipeline, settings: WeightSettings, device: str) -> None:
    if settings.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif settings.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)


def _in_role(base: DiffusionPipeline, wanted: type[DiffusionPipeline], settings: WeightSettings) -> DiffusionPipeline:
    """Return a copy of the base pipeline, or one of another class on its parts."""
    if settings.area is not None and has_own_size(wanted):
        wanted = with_area(wanted, settings.area)
    if type(base) is wanted:
        pipeline = copy.copy(base)
    else:
        pipeline = wanted(**base.components)
        if settings.offload != "none":
            _place(pipeline, settings, resolve_device(settings.device))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def has_own_size(pipeline_class: type[DiffusionPipeline]) -> bool:
    """Return True if a pipeline class brings every image to its own area, as the Qwen-Image editing ones do."""
    return "calculate_dimensions" in vars(sys.modules[pipeline_class.__module__])


def own_size(pipeline_class: type[DiffusionPipeline], size: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height at which a pipeline class with its own size works on an image.

    Args:
        pipeline_class: see `has_own_size`.
        size: width and height of the image in pixels.
    """
    call = inspect.unwrap(pipeline_class.__call__)
    width, height, *_ = call.__globals__["calculate_dimensions"](_OWN_AREA, size[0] / size[1])
    return width, height


def with_area(pipeline_class: type[DiffusionPipeline], area: int) -> type[DiffusionPipeline]:
    """Return a pipeline class that works at most at another area than the one its module fixes (a megapixel).

    Its call is the original code with one name bound otherwise, so that other users of the class see no change.

    Args:
        pipeline_class: a class that has its own size; see `has_own_size`.
        area: pixels at most.
    """
    call = inspect.unwrap(pipeline_class.__call__)
    original: Callable[[int, float], tuple[int, ...]] = call.__globals__["calculate_dimensions"]

    def at_most(target_area: int, ratio: float) -> tuple[int, ...]:
        width, height, *rest = original(min(target_area, area), ratio)
        return (max(32, width), max(32, height), *rest)

    smaller = FunctionType(
        call.__code__,
        {**call.__globals__, "calculate_dimensions": at_most},
        call.__name__,
        call.__defaults__,
        call.__closure__,
    )
    smaller.__kwdefaults__ = call.__kwdefaults__
    return type(
        pipeline_class.__name__, (pipeline_class,), {"__call__": smaller, "__module__": pipeline_class.__module__}
    )
