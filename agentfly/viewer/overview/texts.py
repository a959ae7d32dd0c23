"""Texts of figures on the overview."""

from __future__ import annotations

from pathlib import Path

from agentfly.viewer.charts import number_text


def short(value: str) -> str:
    """Return a path by its last part; other values as they are."""
    return (Path(value).name if value.startswith(("/", "./", "~")) else value)[:60]


def share(value: float | None) -> str | None:
    """Return a share from 0 to 1 in per cent; None for none."""
    return None if value is None else f"{value:.0%}"


def number(value: float | None) -> str | None:
    """Return a number in few digits; None for none."""
    return None if value is None else number_text(value)
