"""The finding of a check: a level, a message, and a fix. Every warning and every error has a fix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is; only an error makes the command fail."""

    ok = "ok"
    warning = "warning"
    error = "error"
    skipped = "skipped"


@dataclass(frozen=True)
class Finding:
    """One sentence of the diagnosis.

    Attributes:
        level: how bad it is.
        message: what was seen; never the value of a key.
        fix: what to do; empty where nothing is to be done.
    """

    level: Level
    message: str
    fix: str = ""


def ok(message: str) -> Finding:
    """All is well."""
    return Finding(Level.ok, message)


def warning(message: str, fix: str) -> Finding:
    """It works, but worse than it could, or not for everything."""
    return Finding(Level.warning, message, fix)


def error(message: str, fix: str) -> Finding:
    """Something that was asked for will not work."""
    return Finding(Level.error, message, fix)


def skipped(message: str, fix: str = "") -> Finding:
    """Nothing was looked at; `fix` is what to say or install to have it looked at."""
    return Finding(Level.skipped, message, fix)
