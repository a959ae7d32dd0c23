"""`python -m recipes.director_generator "a prompt"` prints the path of the result, and nothing else."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentfly.errors import ConfigError, one_line
from agentfly.systems.director_generator import DirectorGenerator, Request, RunFolder, RunRecord, load_studio, run_id
from agentfly.systems.environment import read_env

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
    parser.add_argument("--env-file", type=Path, help="settings file; default: .env, if there is one")
    parser.add_argument("--quiet", action="store_true", help="show only warnings on standard error")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run once and return the exit code: 0 done, 1 failed or recursion limit, 2 wrong flags, 130 interrupted."""
    given = make_parser().parse_args(arguments)
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
    studio = load_studio(find_config(given.config), read_env(given.env_file), max_loops=given.max_iterations)
    system = DirectorGenerator(studio)
    folder = RunFolder(given.output_dir, run_id(prompt))
    try:
        return await system.run(Request(prompt.strip()), folder, folder.run), folder.result
    finally:
        folder.close()
        await system.close()


def _exit_code(record: RunRecord) -> int:
    """Log the outcome of a run and return the exit code."""
    counts, best = record.counts(), record.best
    if counts["failovers"]:
        logger.warning("%d of %d images are stand-ins (failover)", counts["failovers"], counts["images"])
    if best is not None:
        logger.info("%s: best is %s with %.0f points", record.status, best.file, best.score or 0.0)
    if record.error is None:
        return 0
    sys.stderr.write(f"error: {record.error}\n")
    return 1


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
