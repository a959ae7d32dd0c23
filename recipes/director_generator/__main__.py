"""`python -m recipes.director_generator "a prompt"` prints the path of the result, and nothing else."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentfly.cli.ask import ask_on_terminal
from agentfly.errors import ConfigError, one_line
from agentfly.evaluation.scoring import read_specs
from agentfly.systems.director_generator import DirectorGenerator, Request, RunFolder, RunRecord, load_studio, run_id
from agentfly.systems.director_generator.records import ImageRecord
from agentfly.systems.director_generator.run import Review
from agentfly.systems.environment import read_env
from agentfly.systems.person import Opinion, Question
from agentfly.systems.upload import UploadError, check_place, publish
from recipes.options import parse

logger = logging.getLogger("agentfly.director_generator")

HERE = Path(__file__).parent
# Keys of a JSON file that may hold the prompt, in this order; a transcript has its pieces under `_PIECES`.
_PROMPT_KEYS = ("prompt", "text", "transcript", "caption", "description")
_PIECES = "segments"


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(
        "python -m recipes.director_generator", description="Directors and generators make an image from a prompt."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("prompt", nargs="?", help="what the image should show")
    what.add_argument("-f", "--file", type=Path, help="JSON file with the prompt, or with a transcript")
    parser.add_argument("--config", type=Path, default=Path("config/system_config.yaml"), help="system configuration")
    parser.add_argument("--max-iterations", "--max-iteration", type=int, metavar="N", help="most rounds of images")
    parser.add_argument("--output-dir", type=Path, default=Path("output"), help="folder for the results")
    parser.add_argument(
        "--evaluator", metavar="NAME", help="judge beside the directors: as for agentfly eval, or JSON, or a YAML file"
    )
    parser.add_argument("--ask", action="store_true", help="ask for your own score and comment on each image")
    parser.add_argument("--upload", metavar="URL", help="upload the best image there, e.g. s3://bucket/folder/")
    parser.add_argument("--public-url", metavar="URL", help="web address of the place of --upload")
    parser.add_argument("--allow-private-hosts", action="store_true", help="that address may be a private one")
    parser.add_argument("--env-file", type=Path, help="settings file; default: .env, if there is one")
    parser.add_argument("--quiet", action="store_true", help="show only warnings on standard error")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run once and return the exit code: 0 done, 1 failed or recursion limit, 2 wrong flags, 130 interrupted."""
    given = parse(make_parser(), arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    own = logging.getLogger("agentfly")
    own.setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.WARNING if given.quiet else logging.INFO)
    try:
        record, result = asyncio.run(_run(given))
    except Exception as fault:
        if (message := one_line(fault, "--output-dir FOLDER")) is None:
            raise
        sys.stderr.write(f"error: {message}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: the result so far is on disk\n")
        return 130
    sys.stdout.write(f"{result}\n")
    return _exit_code(record)


async def _run(given: argparse.Namespace) -> tuple[RunRecord, Path]:
    prompt = given.prompt if given.file is None else read_prompt(given.file)
    if not prompt.strip():
        raise ConfigError("the prompt is empty: say what the image should show")
    env = read_env(given.env_file)
    place = given.upload or env.get("UPLOAD_URL")
    public = given.public_url or env.get("UPLOAD_PUBLIC_URL")
    if place:
        check_place(place, public)
    evaluator = None if given.evaluator is None else read_evaluator(given.evaluator)
    studio = load_studio(find_config(given.config), env, max_loops=given.max_iterations, evaluator=evaluator)
    system = DirectorGenerator(studio)
    folder = RunFolder(given.output_dir, run_id(prompt))
    review = _reviewer(folder) if given.ask else None
    try:
        record = await system.run(Request(prompt.strip()), folder, folder.run, review=review)
        if place and record.best is not None:
            await _upload(record, folder, place, public or None, given.allow_private_hosts)
        return record, folder.result
    finally:
        folder.close()
        await system.close()


def read_evaluator(given: str) -> dict[str, object]:
    """Return the settings of the evaluator that an option names.

    Raises:
        ConfigError: it cannot be read, or names several.
    """
    [(_, spec), *others] = read_specs([given]).items()
    if others:
        raise ConfigError("--evaluator names several: name one, or a composite")
    return {name: value for name, value in spec.items() if name != "name"}


def _reviewer(folder: RunFolder) -> Review:
    def review(image: ImageRecord) -> Opinion:
        said = "; ".join(f"{who}: {critique['feedback']}" for who, critique in image.critiques.items())
        title = f"round {image.loop}, {image.generator}"
        return ask_on_terminal(Question(title, folder.folder / str(image.file), image.score, said))

    return review


async def _upload(record: RunRecord, folder: RunFolder, place: str, public: str | None, private: bool) -> None:
    """Upload the best image unless it is a stand-in, and write the outcome into the record."""
    assert record.best is not None
    file = folder.folder / str(record.best.file)
    try:
        if record.best.stand_in:
            raise UploadError("the best image is a stand-in for one that could not be made, and is not uploaded")
        record.uploaded_to, record.best_image_url = await publish(file, place, public, allow_private_hosts=private)
    except UploadError as fault:
        record.upload_error = str(fault)
    folder.phase_ended(record)


def _exit_code(record: RunRecord) -> int:
    """Log the outcome of a run and return the exit code."""
    counts, best = record.counts(), record.best
    if counts["failovers"]:
        logger.warning("%d of %d images are stand-ins (failover)", counts["failovers"], counts["images"])
    if best is not None:
        logger.info("%s: best is %s with %.0f points", record.status, best.file, best.score or 0.0)
    if record.best_image_url is not None:
        logger.info("the best image is at %s", record.best_image_url)
    faults = [fault for fault in (record.error, record.upload_error) if fault is not None]
    sys.stderr.writelines(f"error: {fault}\n" for fault in faults)
    return 1 if faults else 0


def find_config(path: Path) -> Path:
    """Return the named file, else the file of that name in this recipe.

    Raises:
        ConfigError: neither exists.
    """
    for candidate in (path, HERE / path):
        if candidate.is_file():
            return candidate
    raise ConfigError(f"there is no configuration {str(path)!r}, here or in {HERE}")


def read_prompt(path: Path) -> str:
    """Return the prompt of a JSON file: a text, an object with one of the known keys, or pieces of a transcript.

    Raises:
        ConfigError: the file cannot be read, or has no prompt.
    """
    if not path.exists():
        raise ConfigError(f"no file at {str(path)!r}: check -f")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise ConfigError(f"cannot read {str(path)!r}: {fault}") from None
    prompt = _prompt(data)
    if not prompt:
        keys = ", ".join(_PROMPT_KEYS)
        raise ConfigError(f"{str(path)!r} has no prompt: give a JSON text, or an object with {keys} or {_PIECES}")
    return prompt


def _prompt(data: object) -> str:
    if isinstance(data, str):
        return data.strip()
    if isinstance(data, list):
        return " ".join(filter(None, map(_prompt, data)))
    if not isinstance(data, Mapping):
        return ""
    texts = (_prompt(data[key]) for key in (*_PROMPT_KEYS, _PIECES) if key in data)
    return next(filter(None, texts), "")


if __name__ == "__main__":
    sys.exit(main())
