"""How the time of a reader grows with what it reads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable

from agentfly.errors import AgentFlyError

Work = Callable[[str], object]


def seconds(work: Work, text: str, times: int = 1) -> float:
    """Return the processor time of a call: the shortest of `times`. A refusal is an end as good as any."""
    best = float("inf")
    for _ in range(times):
        begun = time.thread_time()
        with contextlib.suppress(AgentFlyError, ValueError):
            work(text)
        best = min(best, time.thread_time() - begun)
    return best


def growth(work: Work, make: Callable[[int], str], length: int = 20_000, times: int = 16) -> float:
    """Return how many times longer `work` takes on a text that is `times` as long, as a share of `times`.

    It is about 1 for work in linear time, and about `times` for work in quadratic time.

    Args:
        work: takes a text.
        make: returns a text of a length.
        length: of the shorter text.
        times: length of the longer text, in those of the shorter one.
    """
    # Half a millisecond is what a call costs whatever its text.
    return seconds(work, make(length * times), 3) / (times * (seconds(work, make(length), 3) + 5e-4))


def slower_than_linear(work: Work, texts: Iterable[tuple[str, str, str]], quick: float) -> list[str]:
    """Return the names of the texts for which the time of a reader grows faster than their length.

    Args:
        work: takes a text.
        texts: names, texts, and texts of four times their length.
        quick: seconds for one text that are no harm, however they grow.
    """
    slow = []
    for name, short, long in texts:
        if (taken := seconds(work, long)) >= quick:
            taken = min(taken, seconds(work, long, 2))
            # Four times the length: a linear reader takes 4 times as long, a quadratic one 16 times.
            if taken >= quick and taken > 9 * seconds(work, short, 3):
                slow.append(f"{name}: {taken:.3f} s for {len(long)} characters")
    return slow
