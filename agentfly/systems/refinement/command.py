"""The command `agentfly generate`: one JSON object on standard output, everything else on standard error.

Exit codes: 0 with an image, 1 without one or if the upload failed, 2 for wrong flags.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

from PIL import Image

from agentfly.errors import ConfigError, one_line
from agentfly.files import read_mapping
from agentfly.images import ImageLimits, load_image
from agentfly.systems.environment import read_env
from agentfly.systems.refinement.factory import make_loop
from agentfly.systems.refinement.report import ImageFiles, report, write_json
from agentfly.systems.refinement.settings import (
    Background,
    Format,
    GeneratorName,
    PrompterName,
    Quality,
    RefinementSettings,
    Size,
)
from agentfly.systems.refinement.upload import UploadError, check_place, upload

logger = logging.getLogger(__name__)

_NOT_SETTINGS = ("prompt", "refs", "output_dir", "upload", "config", "env", "allow_private_hosts", "verbose")
_FROM_ENVIRONMENT = {
    "base_url": "OPENAI_BASE_URL",
    "model": "OPENAI_MODEL",
    "max_iterations": "MAX_ITERATIONS",
    "score_threshold": "SCORE_THRESHOLD",
}


def make_parser(program: str) -> argparse.ArgumentParser:
    """The flags. What is not given is taken from --config, then the environment, then `RefinementSettings`."""
    parser = argparse.ArgumentParser(
        program, description="Make an image, judge it, refine the prompt, repeat; print one JSON object."
    )
    add = parser.add_argument
    add("prompt", help="what the image should show")
    add("--refs", nargs="+", default=[], metavar="FILE|URL", help="reference images")
    add("--quality", choices=get_args(Quality), help="default: high")
    add("--size", choices=get_args(Size), help="default: 1024x1024")
    add("--background", choices=get_args(Background), help="default: transparent, if the format supports it")
    add("--format", choices=get_args(Format), help="default: png")
    add("--max-iterations", type=int, help="most images to make; default: 5")
    add("--score-threshold", type=float, help="score that ends the loop, 0 to 100; default: 90")
    add("--rubric", help="criteria for judge and prompter: a name (jewelry) or a YAML file")
    add("--generator", choices=get_args(GeneratorName), help="what makes the images; default: openai")
    add("--model", help="model of the Responses API; also for judge and prompter unless they have their own")
    add("--image-model", help="model of the image_generation tool")
    add("--base-url", help="OpenAI-compatible endpoint up to /v1, for generator, judge and prompter")
    add("--server-url", help="image server, for --generator server")
    add("--diffusers-model", help="model folder or hub name, for --generator diffusers")
    add("--device", help="device of that pipeline: auto, cpu, cuda, cuda:1")
    add("--steps", type=int, help="denoising steps")
    add("--strength", type=float, help="how much diffusers changes the last image, 0 to 1")
    add("--seed", type=int, help="seed of the first image, counted up for the next ones")
    add("--evaluator", help="name of an evaluator, or JSON with its settings; default: a judge by the model")
    add("--judge-model", help="model of the judge; default: --model")
    add("--judge-base-url", help="endpoint of the judge; default: --base-url")
    add("--prompter", choices=get_args(PrompterName), help="how prompts are refined; default: auto")
    add("--prompter-model", help="model of the prompter; default: --model")
    add("--prompter-base-url", help="endpoint of the prompter; default: --base-url")
    add("--timeout", type=float, help="seconds a request may take; default: 300")
    add("--retries", type=int, help="retries of a request; default: 2")
    add("--upload", metavar="URL", help="upload the best image there, e.g. s3://bucket/folder/")
    add("--output-dir", type=Path, help="folder for the images; default: a new one in outputs/generate")
    add("--config", type=Path, help="YAML file with any of these settings")
    add("--env", type=Path, help="settings file; default: .env, if there is one")
    add("--allow-private-hosts", action="store_true", help="also fetch references from private addresses")
    add("--verbose", action="store_true", help="log more")
    return parser


def main(arguments: Sequence[str], program: str = "agentfly generate") -> int:
    """Run the command and return its exit code.

    Raises:
        ConfigError: a setting is wrong; nothing was made, and nothing is on standard output.
        ImageError: a reference cannot be loaded; likewise.
    """
    flags = make_parser(program).parse_args(arguments)
    logging.getLogger("agentfly").setLevel(logging.DEBUG if flags.verbose else logging.INFO)
    settings = settings_from(flags)
    if not flags.prompt.strip():
        raise ConfigError("the prompt is empty: say what the image should show")
    if flags.upload:
        check_place(flags.upload)
    # Libraries that print must not spoil the one object.
    with redirect_stdout(sys.stderr):
        content = asyncio.run(_run(flags, settings))
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()
    for fault in (content["error"], content.get("upload_error")):
        if fault:
            sys.stderr.write(f"error: {fault}\n")
    return 0 if content["best_image_url"] and "upload_error" not in content else 1


def entry(program: str) -> int:
    """`main` for `python -m`: our own errors are one line and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        return main(sys.argv[1:], program)
    except Exception as fault:
        if (told := one_line(fault, "--output-dir FOLDER")) is None:
            raise
        sys.stderr.write(f"error: {told}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: the images so far are on disk\n")
        return 130


def settings_from(flags: argparse.Namespace) -> RefinementSettings:
    """Settings from flags, before them --config, before that the environment.

    Raises:
        ConfigError: one of them is wrong.
    """
    values = read_env(flags.env)
    found: dict[str, Any] = {
        name: values[variable] for name, variable in _FROM_ENVIRONMENT.items() if values.get(variable)
    }
    if flags.config is not None:
        found |= read_mapping(flags.config, "file of --config", "max_iterations: 3")
    found |= {name: value for name, value in vars(flags).items() if value is not None and name not in _NOT_SETTINGS}
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
    """Reference images from files and addresses, all at once.

    Raises:
        ImageError: one of them cannot be loaded, or is refused for safety.
    """
    limits = ImageLimits(allow_private_hosts=allow_private_hosts)
    return list(await asyncio.gather(*(asyncio.to_thread(load_image, source, limits) for source in sources)))


async def _run(flags: argparse.Namespace, settings: RefinementSettings) -> dict[str, Any]:
    references = await load_references(flags.refs, allow_private_hosts=flags.allow_private_hosts)
    folder = flags.output_dir or Path("outputs/generate") / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:6]}"
    loop, close = make_loop(settings)
    files = ImageFiles(folder, settings)
    loop.on_iteration = files.add
    try:
        refinement = await loop.run(flags.prompt, references)
    finally:
        await close()
    content = report(refinement, files.paths, settings)
    if flags.upload and content["best_image_url"]:
        try:
            content["best_image_url"] = await upload(Path(content["best_image_url"]), flags.upload)
        except UploadError as fault:
            content["upload_error"] = str(fault)
    await asyncio.to_thread(write_json, content, files.folder / "result.json")
    return content
