"""Make engines from a short configuration: a preset, or a name or mapping for each of the three.

make_engines("classical")
make_engines({
    "detector": {"engine": "grounding-dino", "model": "IDEA-Research/grounding-dino-base", "masks": True},
    "inpainter": "diffusion",
    "editor": {"engine": "diffusion", "model": "Qwen/Qwen-Image-Edit", "use_fast": True},
    "cache": {"root": "runs/tool-cache"},
})
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import BaseModel, Field

from agentfly import __version__
from agentfly.errors import ConfigError, first_line, unknown_name
from agentfly.files import read_yaml
from agentfly.model_source import is_local
from agentfly.settings import Settings
from agentfly.vision.base import Detector, Editor, Engines, Inpainter, ServiceEngine

Choice = str | Mapping[str, object]


@dataclass(frozen=True)
class _Maker:
    """The module of an engine and of its settings, which is imported when it is asked for; None for no settings."""

    module: str
    engine: str
    settings: str | None = None

    def make(self, options: Mapping[str, object]) -> tuple[object, str]:
        """Return the engine and its version."""
        module = importlib.import_module(f"agentfly.vision.{self.module}")
        engine = getattr(module, self.engine)
        if self.settings is None:
            if options:
                raise ConfigError(f"the {self.module} engines have no settings: leave out {', '.join(options)}")
            return engine(), __version__
        settings: Settings = getattr(module, self.settings)(**options)
        return engine(settings), version_of(settings)


_DETECTORS: Mapping[str, _Maker] = {
    "classical": _Maker("classical", "ClassicalDetector"),
    "grounding-dino": _Maker("detection.grounding_dino", "GroundingDinoDetector", "GroundingDinoSettings"),
    "groundingdino-py": _Maker("detection.groundingdino_py", "GroundingDinoPyDetector", "GroundingDinoPySettings"),
    "vlm": _Maker("detection.vlm_detector", "VlmDetector", "VlmSettings"),
}
_REMOTE_IMAGES: Mapping[str, _Maker] = {
    "openai": _Maker("openai_images", "OpenAIImages", "ImagesSettings"),
    "litellm": _Maker("openai_images", "LiteLLMImages", "ImagesSettings"),
}
_INPAINTERS: Mapping[str, _Maker] = {
    "classical": _Maker("classical", "ClassicalInpainter"),
    "diffusion": _Maker("diffusion", "DiffusionInpainter", "InpainterSettings"),
    **_REMOTE_IMAGES,
}
_EDITORS: Mapping[str, _Maker] = {
    "classical": _Maker("classical", "ClassicalEditor"),
    "diffusion": _Maker("diffusion", "DiffusionEditor", "EditorSettings"),
    **_REMOTE_IMAGES,
}

# Settings of place, speed and bounds, on which results do not depend.
_NOT_IN_VERSION = frozenset(
    ("device", "offload", "compile", "concurrency", "max_batch", "batch_window_ms", "max_images")
)


class CacheSettings(Settings):
    """Settings of the tool cache.

    Attributes:
        root: its folder; processes and runs that name the same folder share it.
        max_bytes: bytes on disk.
        unseeded: cache inpainting and editing calls without a seed too.
    """

    root: str
    max_bytes: int = Field(20 * 1024**3, gt=0)
    unseeded: bool = False


class EnginesConfig(Settings):
    """The three engines: each a name, or a mapping with `engine` and the settings of that engine.

    Attributes:
        detector: "classical", "grounding-dino", "groundingdino-py" or "vlm"; `masks` takes the outlines from SAM: true,
            the name of a model, or a mapping of `SamSettings`.
        inpainter: "classical", "diffusion", "openai" or "litellm".
        editor: "classical", "diffusion", "openai" or "litellm".
        cache: None for none.
    """

    detector: Choice = "classical"
    inpainter: Choice = "classical"
    editor: Choice = "classical"
    cache: CacheSettings | None = None


PRESETS: Mapping[str, EnginesConfig] = {
    "classical": EnginesConfig(),
    "models": EnginesConfig(detector="grounding-dino", inpainter="diffusion", editor="diffusion"),
    "openai": EnginesConfig(inpainter="openai", editor="openai"),
}


def read_engines(text: str, option: str = "--engine") -> str | dict[str, object]:
    """Return the spec of engines from the value of an option, in the form of `make_engines`.

    Args:
        text: a name, a JSON object, or the path of a .yaml, .yml or .json file with one.
        option: name of the option, for messages.

    Raises:
        ConfigError: the JSON or the file cannot be read, or holds no mapping.
    """
    words = text.strip()
    if words.startswith("{"):
        try:
            spec = json.loads(words)
        except ValueError as fault:
            raise ConfigError(f"{option} is not valid JSON: {first_line(fault)}") from fault
    elif words.endswith((".yaml", ".yml", ".json")):
        spec = read_yaml(Path(words).expanduser(), f"file of {option}")
    else:
        return words
    if not isinstance(spec, dict):
        raise ConfigError(f'{option} {words} is no mapping of engines, such as {{"editor": "openai"}}')
    return spec


def make_engines(spec: str | Mapping[str, object] | Engines | None = None) -> Engines:
    """Make engines from a spec. Models are loaded at their first call, not here.

    Args:
        spec: engines, which are returned unchanged; "classical" (the default), "models", "openai" or "openai:MODEL"; or
            a mapping of the fields of `EnginesConfig`, where an engine that is left out is classical.

    Raises:
        ConfigError: an unknown name or setting; the message offers the nearest.
        MissingExtraError: an engine needs packages that are not installed.
    """
    if isinstance(spec, Engines):
        return spec
    config = _config(spec)
    detector, detector_version = _detector(config.detector)
    inpainter, inpainter_version = _built("inpainter", config.inpainter, _INPAINTERS)
    editor, editor_version = _built("editor", config.editor, _EDITORS)
    engines = Engines(detector, cast("Inpainter", inpainter), cast("Editor", editor), draws_boxes=True)
    if config.cache is None:
        return engines
    from agentfly.vision.cached_engines import cached
    from agentfly.vision.tool_cache import ToolCache

    versions = {"detect": detector_version, "inpaint": inpainter_version, "edit": editor_version}
    cache = ToolCache(config.cache.root, max_bytes=config.cache.max_bytes)
    return cached(engines, cache, versions=versions, unseeded=config.cache.unseeded)


def check_keys(spec: str | Mapping[str, object] | Engines | None) -> None:
    """Raise `ConfigError` unless the engines of a spec have the keys that their services ask for.

    Raises:
        ConfigError: a service wants a key and there is none; the message names its variable. Or a name is wrong.
    """
    if isinstance(spec, Engines):
        return
    config = _config(spec)
    for kind, makers in (("detector", _DETECTORS), ("inpainter", _INPAINTERS), ("editor", _EDITORS)):
        name, options = _named(kind, getattr(config, kind))
        options.pop("masks", None)
        engine, _ = _built(kind, {"engine": name, **options}, makers)
        if isinstance(engine, ServiceEngine):
            try:
                engine.check_key()
            except ConfigError as fault:
                raise ConfigError(f"the engine {name!r} ({kind}): {fault}") from None


def _config(spec: str | Mapping[str, object] | None) -> EnginesConfig:
    if spec is None:
        return PRESETS["classical"]
    if isinstance(spec, str):
        name, _, model = spec.partition(":")
        if name == "openai" and model:
            images = {"engine": "openai", "model": model}
            return EnginesConfig(inpainter=images, editor=images)
        if spec not in PRESETS:
            raise ConfigError(unknown_name("engines", spec, (*PRESETS, "openai:MODEL")))
        return PRESETS[spec]
    return EnginesConfig(**spec)


def _detector(choice: Choice) -> tuple[Detector, str]:
    """Return a detector, with masks from SAM where they are asked for, and its version."""
    name, options = _named("detector", choice)
    masks = options.pop("masks", False)
    engine, version = _built("detector", {"engine": name, **options}, _DETECTORS)
    detector = cast("Detector", engine)
    if not masks:
        return detector, version
    from agentfly.vision.detection.segmentation import SamSegmenter, SamSettings, SegmentedDetector

    given = {"model": masks} if isinstance(masks, str) else masks if isinstance(masks, Mapping) else {}
    settings = SamSettings(**given)
    return SegmentedDetector(detector, SamSegmenter(settings)), f"{version} {version_of(settings)}"


def _built(kind: str, choice: Choice, makers: Mapping[str, _Maker]) -> tuple[object, str]:
    """Return an engine and its version."""
    name, options = _named(kind, choice)
    if name not in makers:
        raise ConfigError(unknown_name(kind, name, makers))
    return makers[name].make(options)


def _named(kind: str, choice: Choice) -> tuple[str, dict[str, object]]:
    """Return the name of a chosen engine and its settings."""
    if isinstance(choice, str):
        return choice, {}
    options = dict(choice)
    name = options.pop("engine", None)
    if not isinstance(name, str):
        raise ConfigError(f"{kind} is a mapping without 'engine': name one, such as {{'engine': 'classical'}}")
    return name, options


def version_of(settings: BaseModel) -> str:
    """Return a hash of all that an engine's results depend on: its settings, and the files of a local checkpoint."""
    chosen = settings.model_dump(mode="json", exclude=set(_NOT_IN_VERSION))
    stamps = [_stamp(value) for value in chosen.values() if isinstance(value, str) and value and is_local(value)]
    text = json.dumps([__version__, type(settings).__name__, chosen, stamps], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stamp(path: str) -> list[tuple[str, int, int]]:
    """Return names, sizes and times of the files of a checkpoint: new weights in the old place are a new engine."""
    root = Path(path).expanduser()
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
    return [(str(file.relative_to(root)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
