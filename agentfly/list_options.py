"""Options of typer commands that take several values at once, such as `--nodes a:1 b:2`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from typer.core import TyperCommand

ANY_VALUE = re.compile(r"[^-].*", re.DOTALL)


class ListOptionsCommand(TyperCommand):
    """A command with options that take several values, as options of typer do not.

    The words after such an option belong to it as long as they match its pattern, so that arguments may follow.

    Attributes:
        list_options: for each such option the pattern of its values after the first.
    """

    list_options: ClassVar[Mapping[str, re.Pattern[str]]] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments with each such option repeated before each of its values; `ctx` is a click context."""
        return super().parse_args(ctx, list(self._repeat_options(args)))

    def _repeat_options(self, args: Sequence[str]) -> Iterator[str]:
        current, expects_value = "", False
        for index, word in enumerate(args):
            if word == "--":
                yield from args[index:]
                return
            if expects_value:
                expects_value = False
            elif (name := word.partition("=")[0]) in self.list_options:
                current, expects_value = name, "=" not in word
            elif current and self.list_options[current].fullmatch(word):
                yield current
            else:
                current = ""
            yield word
