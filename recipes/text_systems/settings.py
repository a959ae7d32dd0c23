"""The model of the examples, from API_URL, API_KEY, MODEL_NAME, MAX_TOKENS and TEMPERATURE, and their exit codes.

The settings come from the environment or a `.env` file. VLLM_API_URL and VLLM_API_KEY are other names of the first two.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape

from agentfly.errors import ConfigError, one_line
from agentfly.systems import VLLMModel
from agentfly.systems.environment import read_env

T = TypeVar("T", int, float)


def model_from_environment(env: Path | None = None) -> VLLMModel:
    """Make the model that the settings name.

    Args:
        env: settings file; default: `.env` in the working folder, if there is one.

    Raises:
        ConfigError: a setting is missing or wrong; the message names it.
    """
    values = read_env(env)
    url, model = _either(values, "API_URL"), values.get("MODEL_NAME")
    missing = [name for name, value in (("API_URL (or VLLM_API_URL)", url), ("MODEL_NAME", model)) if not value]
    if not url or not model:
        raise ConfigError(
            f"{' and '.join(missing)} not set: export them, or copy recipes/text_systems/.env.example to .env"
        )
    return VLLMModel(
        model,
        url,
        _either(values, "API_KEY"),
        max_tokens=number(values, "MAX_TOKENS", int, 32000),
        temperature=number(values, "TEMPERATURE", float, 0.7),
        key_variable="API_KEY (or VLLM_API_KEY)",
    )


def number(values: dict[str, str], name: str, kind: type[T], default: T) -> T:
    """Return a setting as a number.

    Args:
        values: from `read_env`.
        name: of the variable.
        kind: `int` or `float`.
        default: for a variable that is not set, or is empty.

    Raises:
        ConfigError: the variable is not a number of that kind.
    """
    text = values.get(name, "").strip()
    if not text:
        return default
    try:
        return kind(text)
    except ValueError:
        wanted = {"int": "a whole number"}.get(kind.__name__, "a number")
        raise ConfigError(f"{name} is {text!r}: set it to {wanted}, or leave it out") from None


def _either(values: dict[str, str], name: str) -> str | None:
    """Return the setting `VLLM_<name>` or `<name>`; the environment overrides the file, then the first name wins."""
    places, names = (os.environ, values), (f"VLLM_{name}", name)
    return next((place[known] for place in places for known in names if place.get(known)), None)


def exit_code(work: Coroutine[object, object, int], outputs: str) -> int:
    """Run the work of a recipe and return its exit code: 1 after an error of ours, 130 after an interrupt.

    Args:
        work: returns the exit code.
        outputs: name of what is on disk after an interrupt.
    """
    console = Console(stderr=True)
    try:
        return asyncio.run(work)
    except Exception as fault:
        if (message := one_line(fault, "--output-dir FOLDER")) is None:
            raise
        console.print(f"[bold red]error:[/bold red] {escape(message)}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print(f"interrupted: the {outputs} so far are on disk")
        return 130
