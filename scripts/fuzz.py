"""Give hostile inputs to the parts of the package that read what others wrote, and report the first one that breaks it.

    python scripts/fuzz.py --minutes 10                               # all parts, from seed 0
    python scripts/fuzz.py --part parsing --part loading --minutes 1
    python scripts/fuzz.py --part chains --seed 1234 --cases 1        # one input again, as a finding names it

Case N is the same input in every run. An input is a finding when it raises anything but the errors that are declared
for it, logs a bug, takes more than a bound, takes more than ten times as long when it is four times as long, or ends
the work beside it. The inputs are those of `tests/fuzz`, the parts those of
`scripts/fuzz_parts.py` and `scripts/fuzz_network.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import logging
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from fuzz_network import Chats, Requests, Servers  # noqa: E402
from fuzz_parts import Broken, Chains, Loading, Parsing, Part, Rows  # noqa: E402

from agentfly.aio import TimeLimitExceeded, with_timeout  # noqa: E402

PARTS: dict[str, type[Part]] = {
    "parsing": Parsing,
    "loading": Loading,
    "requests": Requests,
    "chains": Chains,
    "chats": Chats,
    "servers": Servers,
    "rows": Rows,
}
CPU_SECONDS = 5.0  # of one case at most, in this process
HANG_SECONDS = 90.0  # of one case at most, by the clock


@dataclass(frozen=True)
class Finding:
    """An input that breaks a part, by the number of its case."""

    part: str
    case: int
    what: str
    given: str

    def __str__(self) -> str:
        again = f"python scripts/fuzz.py --part {self.part} --seed {self.case} --cases 1"
        return f"{self.part}, case {self.case}: {self.what}\n  input: {self.given}\n  again: {again}"


class _Bugs(logging.Handler):
    """Collects the tracebacks that the package logs: each is a bug that a boundary caught."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record that has a traceback."""
        if record.exc_info and record.exc_info[0] is not None:
            lines = traceback.format_exception(*record.exc_info, limit=-4, chain=False)
            self.seen.append(f"{record.getMessage()}\n{''.join(lines)}")


@contextlib.contextmanager
def logged_bugs() -> Iterator[list[str]]:
    """Give the list of the tracebacks that are logged meanwhile."""
    handler = _Bugs()
    logging.getLogger().addHandler(handler)
    try:
        yield handler.seen
    finally:
        logging.getLogger().removeHandler(handler)


def shown(given: object) -> str:
    """Return an input for people, cut to a readable length."""
    try:
        text = ascii(given)
    except RecursionError:
        text = f"{type(given).__name__}, nested too deeply to be shown"
    return text if len(text) <= 600 else f"{text[:500]}... ({len(text)} characters)"


def give_up(name: str, number: int, part: Part) -> None:
    """Report a case that holds the event loop, and end the process: nothing else can."""
    sys.stdout.write(f"{Finding(name, number, f'it takes more than {HANG_SECONDS:g} s', shown(part.given))}\n")
    sys.stdout.flush()
    os._exit(1)


async def run_case(name: str, part: Part, number: int) -> Finding | None:
    """Run one case, and return what it found."""
    watch = threading.Timer(HANG_SECONDS + 30, give_up, (name, number, part))
    watch.daemon = True
    watch.start()
    begun, what = time.process_time(), None
    try:
        with logged_bugs() as bugs:
            await with_timeout(part.case(Random(f"{name} {number}")), HANG_SECONDS)
        if bugs:
            what = f"a bug was logged:\n{bugs[0]}"
        elif (seconds := time.process_time() - begun) > CPU_SECONDS:
            what = f"it takes {seconds:.1f} s of processor time"
    except TimeLimitExceeded:
        what = f"it takes more than {HANG_SECONDS:g} s"
    except Broken as fault:
        what = str(fault)
    except Exception:  # whatever it raises is the finding
        what = f"it raises\n{traceback.format_exc(limit=-4, chain=False)}"
    finally:
        watch.cancel()
    return None if what is None else Finding(name, number, what, shown(part.given))


async def fuzz(
    names: Sequence[str], seed: int, seconds: float, cases: int | None = None, most: int = 1
) -> tuple[list[Finding], Counter[str]]:
    """Run cases of parts in turn, and return the findings and the number of cases of each part.

    Args:
        names: of the parts.
        seed: number of the first case of each part.
        seconds: after which no further case begins.
        cases: of each part at most.
        most: findings after which it ends.
    """
    end, counts, found = time.monotonic() + seconds, Counter[str](), list[Finding]()
    async with contextlib.AsyncExitStack() as stack:
        parts = {name: PARTS[name]() for name in names}
        for part in parts.values():
            await part.start()
            stack.push_async_callback(part.stop)
        for number in itertools.count(seed) if cases is None else range(seed, seed + cases):
            for name, part in parts.items():
                if time.monotonic() > end or len(found) >= most:
                    return found, counts
                counts[name] += 1
                if (finding := await run_case(name, part, number)) is not None:
                    found.append(finding)
    return found, counts


def main(arguments: list[str] | None = None) -> int:
    """Fuzz, write the findings to standard output, and return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="time for all parts together")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case of each part")
    parser.add_argument("--cases", type=int, help="cases of each part at most")
    parser.add_argument("--most", type=int, default=1, help="findings after which it ends")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="repeat for more; all by default")
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    try:
        parts = given.part or list(PARTS)
        found, counts = asyncio.run(fuzz(parts, given.seed, given.minutes * 60, given.cases, given.most))
    finally:
        logging.disable(logging.NOTSET)
    each = ", ".join(f"{count} of {name}" for name, count in counts.items())
    sys.stdout.write(
        "".join(f"{finding}\n\n" for finding in found) + f"{counts.total()} cases ({each}), {len(found)} findings\n"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
