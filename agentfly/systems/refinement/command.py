"""The work of `agentfly generate`: settings from options, a file and the environment, one run, its files and report.

The best image may be uploaded to any place that fsspec reaches, such as s3://bucket/folder/.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from PIL import Image

from agentfly.errors import AgentFlyError, ConfigError, ImageError, MissingExtraError, first_line
from agentfly.files import read_mapping, write_text
from agentfly.images import ImageLimits, load_image, save_image
from agentfly.redaction import public_url
from agentfly.systems.environment import read_env
from agentfly.systems.generators import GeneratedImage
from agentfly.systems.refinement.factory import make_loop
from agentfly.systems.refinement.loop import Iteration, Refinement
from agentfly.systems.refinement.settings import RefinementSettings
from agentfly.systems.text.replies import make_folder

_FROM_ENVIRONMENT = {
    "base_url": "OPENAI_BASE_URL",
    "model": "OPENAI_MODEL",
    "max_iterations": "MAX_ITERATIONS",
    "score_threshold": "SCORE_THRESHOLD",
}
_SUFFIX = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp"))


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
    limits = ImageLimits(allow_private_hosts=request.allow_private_hosts)
    loads = (asyncio.to_thread(load_image, source, limits) for source in request.references)
    references = await asyncio.gather(*loads)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:6]}"
    loop, close = make_loop(settings)
    files = ImageFiles(request.output_dir or Path("outputs/generate") / name, settings)
    so_far: list[Iteration] = []

    async def add(iteration: Iteration) -> None:
        """Write the image and the record so far, so that an interrupted run leaves both, and others can look on."""
        await files.add(iteration)
        so_far.append(iteration)
        known = report(Refinement(request.prompt, so_far), files.paths, settings)
        await write_report(known | {"stopped": "running", "error": None, "costs": {}}, files.folder)

    loop.on_iteration = add
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
    await write_report(content, files.folder)
    return content


async def write_report(content: Mapping[str, Any], folder: Path) -> None:
    """Write `result.json`, whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    await asyncio.to_thread(write_text, folder / "result.json", text)


class ImageFiles:
    """The images of a run as files `iteration_1.png` and so on, each written as soon as it is made.

    Args:
        folder: of the files; made where it is missing.
        settings: of the loop.

    Attributes:
        paths: absolute path of each image, by iteration.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path, settings: RefinementSettings) -> None:
        self.folder, self._settings = make_folder(folder), settings
        self.paths: dict[int, str] = {}

    async def add(self, iteration: Iteration) -> None:
        """Write the image of an iteration, if there is one.

        Raises:
            ConfigError: the file cannot be written.
        """
        if iteration.image is None:
            return
        file = self.folder / f"iteration_{iteration.number}{_SUFFIX[self._settings.format]}"
        try:
            path = await asyncio.to_thread(_write, iteration.image, file, self._settings)
        except (OSError, ImageError) as fault:
            raise ConfigError(f"cannot write {str(file)!r} ({fault}): give another --output-dir") from fault
        self.paths[iteration.number] = str(path)


def report(refinement: Refinement, files: dict[int, str], settings: RefinementSettings) -> dict[str, Any]:
    """Return the documented JSON object.

    The three histories have one entry for each iteration. An image that was not made is null, and the feedback of an
    iteration that failed is its error.

    Args:
        refinement: record of the run.
        files: path of each image, by iteration.
        settings: of the loop, for the prices.
    """
    best = refinement.best
    prices = settings.input_price, settings.output_price
    parts = ("generate", "evaluate", "refine")
    sums = {part: round(sum(one.seconds.get(part, 0.0) for one in refinement.iterations), 3) for part in parts}
    return {
        "best_image_url": files.get(best.number) if best is not None else None,
        "final_score": best.score if best is not None else None,
        "prompt_history": [one.prompt for one in refinement.iterations],
        "image_history": [files.get(one.number) for one in refinement.iterations],
        "feedback_history": [one.feedback if one.fault is None else one.fault for one in refinement.iterations],
        "thread_id": refinement.thread_id,
        "score_history": [one.score for one in refinement.iterations],
        "stopped": refinement.end.value,
        "error": refinement.fault or refinement.error,
        "iterations": [_entry(one) for one in refinement.iterations],
        "costs": {role: usage.to_dict(*prices) for role, usage in refinement.usage.items()},
        "timings": {"total": round(refinement.seconds, 3), **sums},
    }


def _write(image: GeneratedImage, file: Path, settings: RefinementSettings) -> Path:
    """Write the file as it was received if it has the wanted format; encode the image otherwise."""
    if image.encoded is not None:
        with Image.open(io.BytesIO(image.encoded)) as received:
            if received.format == settings.format.upper():
                file.write_bytes(image.encoded)
                return file.resolve()
    return save_image(image.image, file).resolve()


def _entry(one: Iteration) -> dict[str, object]:
    return {
        "number": one.number,
        "engine": one.engine,
        "score": one.score,
        "aspects": one.aspects,
        "error": one.fault,
        "prompter_error": one.prompter_fault,
        "response_id": one.image.context if one.image is not None else None,
        "seconds": {part: round(seconds, 3) for part, seconds in one.seconds.items()},
    }


class UploadError(AgentFlyError):
    """The image is made, but could not be uploaded."""


def check_place(url: str) -> None:
    """Check an address before anything is made.

    Raises:
        ConfigError: the address names no place that fsspec knows, or its package is not installed.
        MissingExtraError: uploads to s3 are wanted, and s3fs is not installed.
    """
    fsspec = importlib.import_module("fsspec")
    protocol, separator, rest = url.partition("://")
    if not separator or not (rest or protocol == "memory"):
        raise ConfigError(
            f"cannot upload to {public_url(url)!r}: give an address such as s3://bucket/folder/ or file:///folder/"
        )
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as fault:
        if protocol in ("s3", "s3a"):
            raise MissingExtraError(f"--upload to {protocol}://", "s3") from fault
        package = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
        needed = f"pip install {package[protocol]}" if protocol in package else first_line(fault)
        raise ConfigError(f"uploads to {protocol}:// need a package that is not installed: {needed}") from fault
    except ValueError as fault:
        raise ConfigError(f"fsspec knows no place {protocol}://: use s3, gs, az or file") from fault


async def upload(file: Path, url: str) -> str:
    """Upload a file and return its address, without a password.

    Args:
        file: the local file.
        url: address of the file if it ends in the suffix of an image, else of its folder. In a folder the file's name
            begins with that of its local folder, since images of several runs have equal names.

    Raises:
        UploadError: the upload failed.
    """
    protocol, _, rest = url.partition("://")
    whole = "/" in rest and PurePosixPath(rest).suffix.lower() in _SUFFIXES and not rest.endswith("/")
    target = url if whole else f"{protocol}://{rest.rstrip('/')}/{file.parent.name}-{file.name}"

    shown = public_url(target)

    def put() -> None:
        filesystem, path = importlib.import_module("fsspec").core.url_to_fs(target)
        # Object stores have no folders, and would be asked to make the bucket.
        if target.startswith(("file:", "local:")):
            filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        filesystem.put_file(str(file), path)

    try:
        await asyncio.to_thread(put)
    except Exception as fault:  # every file system has its own: botocore's, gcsfs's, OSError
        raise UploadError(
            f"cannot upload to {shown}: {public_url(first_line(fault))}; check the address and the key"
        ) from fault
    return shown
