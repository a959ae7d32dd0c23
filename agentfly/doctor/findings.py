"""The finding of a check: a level, a message, and a fix. Every warning and every error has a fix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """Severity of a finding. Only an error makes the command fail."""

    ok = "ok"
    warning = "warning"
    error = "error"
    skipped = "skipped"


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        level: severity.
        message: the observation; it never holds the value of a key.
        fix: the remedy; empty where none is needed.
    """

    level: Level
    message: str
    fix: str = ""


def ok(message: str) -> Finding:
    """Return a finding of no problem."""
    return Finding(Level.ok, message)


def warning(message: str, fix: str) -> Finding:
    """Return a finding of something that works badly or only in part."""
    return Finding(Level.warning, message, fix)


def error(message: str, fix: str) -> Finding:
    """Return a finding of something requested that will not work."""
    return Finding(Level.error, message, fix)


def skipped(message: str, fix: str = "") -> Finding:
    """Return a finding for a check that did not run; `fix` names the option or package that makes it run."""
    return Finding(Level.skipped, message, fix)
