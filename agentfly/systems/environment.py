"""Settings of the systems from the environment and a `.env` file; the environment overrides the file.

Keys are read here and nowhere else, so no message of this module repeats a value.
"""

from __future__ import annotations

import os
from pathlib import Path

from agentfly.errors import ConfigError


def read_env(path: Path | None = None) -> dict[str, str]:
    """Return the values of a `.env` file, overridden by the environment; the environment itself is not changed.

    Args:
        path: the file; None for `.env` in the working folder, if there is one.

    Raises:
        ConfigError: the named file does not exist, or a file cannot be read.
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
