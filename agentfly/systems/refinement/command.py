"""The work of `agentfly generate`: settings from options, a file and the environment, one run, its files and report."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from PIL import Image

from agentfly.errors import ConfigError
from agentfly.files import read_mapping
from agentfly.images import ImageLimits, load_image
from agentfly.systems.environment import read_env
from agentfly.systems.refinement.factory import make_loop
from agentfly.systems.refinement.report import ImageFiles, report, write_json
from agentfly.systems.refinement.settings import RefinementSettings
from agentfly.systems.refinement.upload import UploadError, check_place, upload

_FROM_ENVIRONMENT = {
    "base_url": "OPENAI_BASE_URL",
    "model": "OPENAI_MODEL",
    "max_iterations": "MAX_ITERATIONS",
    "score_threshold": "SCORE_THRESHOLD",
}


@dataclass(frozen=True)
class GenerateRequest:
    """The request of one run, besides the settings of the loop.

    Attributes:
        prompt: description of the image.
        references: paths and addresses of reference images.
        output_dir: folder for the images; None makes a new one in outputs/generate.
        upload_to: address to which the best image is uploaded; None for no upload.
        allow_private_hosts: also fetch references from private addresses.
    """

    prompt: str
    references: Sequence[str] = ()
    output_dir: Path | None = None
    upload_to: str | None = None
    allow_private_hosts: bool = False

    def check(self) -> None:
        """Check what can be checked before an image is made.

        Raises:
            ConfigError: the prompt is empty, or the address of the upload is wrong.
        """
        if not self.prompt.strip():
            raise ConfigError("the prompt is empty: say what the image should show")
        if self.upload_to:
            check_place(self.upload_to)


def read_settings(options: Mapping[str, object], config: Path | None, env: Path | None) -> RefinementSettings:
    """Return the settings of a loop. Options come before `config`, and `config` before the environment.

    Args:
        options: of the command line; None means not given.
        config: YAML file with any of these settings.
        env: file with variables that the environment lacks; None for `.env`, if there is one.

    Raises:
        ConfigError: one of them is wrong.
    """
    values = read_env(env)
    found: dict[str, object] = {
        name: values[variable] for name, variable in _FROM_ENVIRONMENT.items() if values.get(variable)
    }
    if config is not None:
        found |= read_mapping(config, "file of --config", "max_iterations: 3")
    found |= {name: value for name, value in options.items() if value is not None}
    evaluator = found.get("evaluator")
    if isinstance(evaluator, str) and evaluator.lstrip().startswith("{"):
        try:
            found["evaluator"] = json.loads(evaluator)
        except ValueError as fault:
            raise ConfigError(f"--evaluator is no JSON object ({fault}): give a name or valid JSON") from fault
    settings = RefinementSettings(**found)
    if values.get(settings.api_key_env):
        # Keys are read from the environment, wherever else they may be written.
        os.environ.setdefault(settings.api_key_env, values[settings.api_key_env])
    return settings


async def load_references(sources: Sequence[str], *, allow_private_hosts: bool = False) -> list[Image.Image]:
    """Load reference images from files and addresses, all at once.

    Raises:
        ImageError: one of them cannot be loaded, or is refused for safety.
    """
    limits = ImageLimits(allow_private_hosts=allow_private_hosts)
    return list(await asyncio.gather(*(asyncio.to_thread(load_image, source, limits) for source in sources)))


async def generate_image(request: GenerateRequest, settings: RefinementSettings) -> dict[str, Any]:
    """Run a loop and return its report, which is also written to `result.json` beside the images.

    The report has `upload_error` if the upload failed.

    Args:
        request: prompt, references and places.
        settings: of the loop.

    Raises:
        ImageError: a reference cannot be loaded; nothing was made.
        ConfigError: the folder cannot be written.
    """
    references = await load_references(request.references, allow_private_hosts=request.allow_private_hosts)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:6]}"
    loop, close = make_loop(settings)
    files = ImageFiles(request.output_dir or Path("outputs/generate") / name, settings)
    loop.on_iteration = files.add
    try:
        refinement = await loop.run(request.prompt, references)
    finally:
        await close()
    content = report(refinement, files.paths, settings)
    if request.upload_to and content["best_image_url"]:
        try:
            content["best_image_url"] = await upload(Path(content["best_image_url"]), request.upload_to)
        except UploadError as fault:
            content["upload_error"] = str(fault)
    await asyncio.to_thread(write_json, content, files.folder / "result.json")
    return content
