"""Options with lists: of values, as in `--gpu-ids 0 1`, where typer's own take one each, and of choices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import get_args


def repeat_option(words: Sequence[str], option: str, accepts: Callable[[str], object]) -> Iterator[str]:
    """Yield the words of a command line with `option` before each of its values.

    Args:
        words: of the command line; those after `--` stay as they are.
        option: as it is written, with its dashes.
        accepts: is true for words that belong to the option after its first value.
    """
    expecting = listing = False
    for index, word in enumerate(words):
        if word == "--":
            yield from words[index:]
            return
        if expecting:
            expecting = False
        elif word == option:
            expecting = listing = True
        elif word.startswith(f"{option}="):
            listing = True
        elif listing and accepts(word):
            yield option
        else:
            listing = False
        yield word


def list_choices(literal: object) -> str:
    """Return the choices of a `Literal` for a text of help, where a long metavar would cut the names of options."""
    *others, last = get_args(literal)
    return f"{', '.join(others)} or {last}"
