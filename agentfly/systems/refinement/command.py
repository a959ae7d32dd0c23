"""The work of `agentfly generate`: settings from options, a file and the environment, one run, its files and report."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from PIL import Image

from agentfly.errors import ConfigError, ImageError
from agentfly.files import read_mapping, write_text
from agentfly.images import ImageLimits, load_image, save_image
from agentfly.systems.environment import read_env
from agentfly.systems.generators import GeneratedImage
from agentfly.systems.person import AskPerson, Question
from agentfly.systems.refinement.factory import make_loop
from agentfly.systems.refinement.loop import Iteration, Refinement
from agentfly.systems.refinement.settings import RefinementSettings
from agentfly.systems.text.replies import make_folder
from agentfly.systems.upload import UploadError, check_place, publish

_FROM_ENVIRONMENT = {
    "base_url": "OPENAI_BASE_URL",
    "model": "OPENAI_MODEL",
    "max_iterations": "MAX_ITERATIONS",
    "score_threshold": "SCORE_THRESHOLD",
    "upload": "UPLOAD_URL",
    "public_url": "UPLOAD_PUBLIC_URL",
}
_SUFFIX = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


class GenerateSettings(RefinementSettings):
    """Settings of the command: those of the loop, and the place of the best image.

    Attributes:
        upload: address to which the best image is uploaded; None for no upload.
        public_url: address of the web at which the place of `upload` is seen; None for none.
    """

    upload: str | None = None
    public_url: str | None = None


@dataclass(frozen=True)
class GenerateRequest:
    """The request of one run, besides the settings of the loop.

    Attributes:
        prompt: description of the image.
        references: paths and addresses of reference images.
        output_dir: folder for the images; None makes a new one in outputs/generate.
        allow_private_hosts: also fetch references from private addresses.
        ask: asks a person about each image; None asks nobody.
    """

    prompt: str
    references: Sequence[str] = ()
    output_dir: Path | None = None
    allow_private_hosts: bool = False
    ask: AskPerson | None = None

    def check(self, settings: GenerateSettings) -> None:
        """Check what can be checked before an image is made.

        Raises:
            ConfigError: the prompt is empty, or an address of the upload is wrong.
        """
        if not self.prompt.strip():
            raise ConfigError("the prompt is empty: say what the image should show")
        if settings.upload:
            check_place(settings.upload, settings.public_url)
        elif settings.public_url:
            raise ConfigError("--public-url is the web address of an upload: give --upload too, or leave it out")


def read_settings(options: Mapping[str, object], config: Path | None, env: Path | None) -> GenerateSettings:
    """Return the settings of the command. Options come before `config`, and `config` before the environment.

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
    settings = GenerateSettings(**found)
    if values.get(settings.api_key_env):
        # Keys are read from the environment, wherever else they may be written.
        os.environ.setdefault(settings.api_key_env, values[settings.api_key_env])
    return settings


async def generate_image(request: GenerateRequest, settings: GenerateSettings) -> dict[str, Any]:
    """Run a loop and return its report, which is also written to `result.json` beside the images.

    After an upload the report has `uploaded_to`, or `upload_error` if it failed.

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
        await write_so_far()

    async def write_so_far() -> None:
        known = report(Refinement(request.prompt, so_far), files.paths, settings)
        await write_report(known | {"stopped": "running", "error": None, "costs": {}}, files.folder)

    async def review(iteration: Iteration) -> None:
        """Ask the person about an image that is on disk, and write the record again."""
        if request.ask is not None:
            title = f"iteration {iteration.number} of {settings.max_iterations}"
            heed(iteration, request.ask, title, Path(files.paths[iteration.number]))
            await write_so_far()

    loop.on_iteration, loop.review = add, review
    try:
        refinement = await loop.run(request.prompt, references)
    finally:
        await close()
    content = report(refinement, files.paths, settings)
    if settings.upload and (best := content["best_image_url"]):
        private = request.allow_private_hosts
        try:
            content["uploaded_to"], content["best_image_url"] = await publish(
                Path(best), settings.upload, settings.public_url, allow_private_hosts=private
            )
        except UploadError as fault:
            content["upload_error"] = str(fault)
    await write_report(content, files.folder)
    return content


def heed(iteration: Iteration, ask: AskPerson, title: str, file: Path) -> None:
    """Ask a person about the image of an iteration, and take over what the person says.

    Args:
        iteration: changed: the person's score takes the place of the judge's, which stays as the aspect "judge", and
            the words are added to the feedback.
        ask: asks.
        title: of the image in its run.
        file: the image.
    """
    said = ask(Question(title, file, iteration.score, iteration.fault or iteration.feedback))
    if said.score is not None:
        if iteration.score is not None:
            iteration.aspects["judge"] = iteration.score / 100
        iteration.score, iteration.fault = said.score, None
    if said.words:
        iteration.feedback = f"{iteration.feedback} A person says: {said.words}".strip()


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
