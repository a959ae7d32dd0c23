"""Ask a person on the terminal about an image, for `--ask`. Questions go to standard error, which has no results."""

from __future__ import annotations

import logging
import signal
import sys

from rich.console import Console
from rich.text import Text

from agentfly.errors import printable
from agentfly.systems.person import Opinion, Question

logger = logging.getLogger(__name__)


def ask_on_terminal(question: Question) -> Opinion:
    """Show the image's file and the judges' opinion, and return that of the person. Ctrl-C ends the run at once.

    Args:
        question: about the image.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    judged = "" if question.score is None else f"judged {question.score:.0f} of 100: "
    console.print(Text(printable(f"{question.title}, {question.file}\n  {judged}{question.feedback or 'no comment'}")))
    # asyncio would only cancel the run, and the terminal would go on waiting for a line.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    score: float | None = None
    words = ""
    try:
        keep = "none" if question.score is None else f"{question.score:.0f}"
        score = _score(console, f"  your score, 0 to 100 (Enter for {keep}): ")
        words = _line(console, "  what should change (Enter for nothing): ")
    except EOFError:
        logger.warning("nobody answers any more (end of input)")
    finally:
        signal.signal(signal.SIGINT, before)
    return Opinion(score, words)


def _score(console: Console, prompt: str) -> float | None:
    """Return a number from 0 to 100, or None for an empty line; ask again for anything else."""
    while text := _line(console, prompt):
        try:
            score = float(text)
        except ValueError:
            score = -1.0
        if 0 <= score <= 100:
            return score
        console.print(Text("  a score is a number from 0 to 100"))
    return None


def _line(console: Console, prompt: str) -> str:
    console.print(Text(prompt), end="")
    line = sys.stdin.readline()
    if not line:
        console.print()
        raise EOFError
    return line.strip()
