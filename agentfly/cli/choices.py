"""Choices of an option, written out for its help."""

from __future__ import annotations

from typing import get_args


def list_choices(literal: object) -> str:
    """Return the choices of a `Literal` for a text of help, where a long metavar would cut the names of options."""
    *others, last = get_args(literal)
    return f"{', '.join(others)} or {last}"
