"""Options of the recipes' commands: a misspelt one offers the nearest."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from agentfly.errors import unknown_name


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed arguments; end the process with exit code 2 and a line for those that cannot be.

    Args:
        parser: of the command.
        arguments: None for those of the process.
    """
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [spelling for action in parser._actions for spelling in action.option_strings]
        parser.error(unknown_name("option", unknown[0].partition("=")[0], known))
    return given
