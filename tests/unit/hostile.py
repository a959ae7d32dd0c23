"""Texts by which a model, a server or a data set could steer a terminal or crash what prints them."""

from __future__ import annotations

import unicodedata

HOSTILE = (
    "[/cyan] [/bold] [red] [link=http://x] [",
    "\x1b]0;title\x07 \x1b[2J \x1b]8;;http://x\x1b\\link",
    "\x9b31m \x90q \x85",
    "\x00\x08\x0b\x0c\x7f\r",
    "\u202eevil\u202c \u2066a\u2069 \u200f",
    "half \ud800 and \udfff",
    "\ufeff\u2028\u2029 \U000e0041",
    "ends in \\",
)
EVERYTHING = " ".join(HOSTILE)


def assert_tame(shown: str) -> None:
    """Assert that an output has the words of `EVERYTHING`, and nothing that a terminal would obey."""
    unseen = [char for char in shown if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char != "\n"]
    assert unseen == []
    joined = " ".join(shown.split())
    for words in ("[/cyan]", "[/bold]", "[red]", "[link=http://x]", "]0;title", "31m", "evil", "ends in \\"):
        assert words in joined
