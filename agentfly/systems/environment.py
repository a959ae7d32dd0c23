"""Settings of the systems from the environment and a `.env` file; the environment overrides the file.

Keys are read here and nowhere else: no message of this module repeats a value.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from agentfly.errors import ConfigError

T = TypeVar("T")


def read_env(path: Path | None = None) -> dict[str, str]:
    """Values of a `.env` file, overridden by the environment; the environment itself is not changed.

    Args:
        path: the file; `.env` in the working folder without it, where there is one.

    Raises:
        ConfigError: a file is named and is not there, or it cannot be read.
    """
    file = Path(".env") if path is None else path
    values: dict[str, str] = {}
    if path is not None and not file.is_file():
        raise ConfigError(f"there is no settings file {str(path)!r}: give the path of a .env file")
    if file.is_file():
        from dotenv import dotenv_values

        try:
            found = dotenv_values(file, interpolate=False)
        except (OSError, UnicodeDecodeError) as fault:
            raise ConfigError(f"cannot read {str(file)!r} ({type(fault).__name__}): it is text, NAME=value") from fault
        values = {name: value for name, value in found.items() if value is not None}
    return {**values, **os.environ}


def number(values: dict[str, str], name: str, kind: type[T], default: T) -> T:
    """A number of the settings.

    Args:
        values: of `read_env`.
        name: of the variable.
        kind: `int` or `float`.
        default: where the variable is not set, or empty.

    Raises:
        ConfigError: the variable is no such number.
    """
    text = values.get(name, "").strip()
    if not text:
        return default
    try:
        return kind(text)  # type: ignore[call-arg]
    except ValueError:
        raise ConfigError(f"{name} is no {kind.__name__}: set it to a number, or leave it out") from None
