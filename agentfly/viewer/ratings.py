"""The verdicts of people: `ratings.jsonl` beside a run, written and read here alone.

A line is a JSON object:

    format    "agentfly.rating/1"
    id        of the rating
    task      id of the task
    chains    one for a score, two for a comparison: run (see `run_identity`), chain (id), image (handle of the result)
    verdict   of the first chain against the second one: "better", "worse" or "tie"; "skip" for no verdict
    score     0 to 100, of the only chain
    left      of a comparison: the place in `chains` of the one that was shown on the left
    words     why, in the rater's words; may be absent
    rater, time (seconds since 1970), seconds (that the verdict took)

A line with `undoes`, the id of a rating, in place of `chains` takes that rating back. Lines are only ever appended, so
several viewers may write at once. Of two ratings of the same results by the same rater the later one counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, get_args

from agentfly.errors import ConfigError, printable
from agentfly.files import append_shared, encodable
from agentfly.images.store import HANDLE
from agentfly.viewer.runs.facts import is_number
from agentfly.viewer.runs.folder import RunFolder

FORMAT = "agentfly.rating/1"
FILE_NAME = "ratings.jsonl"
MOST_WORDS, MOST_NAME, MOST_ID = 1000, 60, 1000  # characters
_HEAD = 65536  # bytes of a run's first line that tell it from others
_LONGEST = 86_400.0  # seconds of one verdict

Verdict = Literal["better", "worse", "tie", "skip"]


@dataclass(frozen=True)
class RatedChain:
    """A result that was shown to a person.

    Attributes:
        run: see `run_identity`.
        chain: id of the chain.
        image: handle of its final image.
    """

    run: str
    chain: str
    image: str

    def __post_init__(self) -> None:
        """Check the values, which may come from a page or from a file that somebody edited.

        Raises:
            ValueError: one of them is of no known form.
        """
        if not (_is_short(self.run) and _is_short(self.chain) and HANDLE.fullmatch(str(self.image))):
            raise ValueError("a chain needs run, chain and image")


@dataclass(frozen=True)
class Rating:
    """One verdict; the keys of a line are explained at the top of this file."""

    task: str
    chains: tuple[RatedChain, ...]
    verdict: Verdict | None = None
    score: float | None = None
    left: int = 0
    words: str = ""
    rater: str = "me"
    seconds: float = 0.0
    time: float = field(default_factory=time.time)
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:16])

    def __post_init__(self) -> None:
        """Check the values, which may come from a page or from a file that somebody edited.

        Raises:
            ValueError: one of them is wrong; the message names it.
        """
        if len(self.chains) not in (1, 2) or not _is_short(self.task) or not _is_short(self.id):
            raise ValueError("a rating needs a task, and one chain or two")
        if self.skipped:
            sound = self.score is None
        elif self.pair:
            sound = self.verdict in get_args(Verdict) and self.score is None
        else:
            sound = self.verdict is None and is_number(self.score) and 0 <= float(self.score or 0) <= 100
        if not sound:
            raise ValueError("a comparison has the verdict better, worse or tie, and one chain a score from 0 to 100")
        if self.left not in range(len(self.chains)) or not (is_number(self.seconds) and is_number(self.time)):
            raise ValueError("left, seconds or time is wrong")
        words: object = self.words
        if self.rater != rater_name(self.rater) or not isinstance(words, str) or len(words) > MOST_WORDS:
            raise ValueError(f"a name has {MOST_NAME} characters at most, the words {MOST_WORDS}")

    @property
    def pair(self) -> bool:
        """True for a comparison of two results."""
        return len(self.chains) == 2

    @property
    def skipped(self) -> bool:
        """True where the rater passed over the results."""
        return self.verdict == "skip"

    @property
    def images(self) -> frozenset[str]:
        """The handles of what was rated."""
        return frozenset(chain.image for chain in self.chains)

    def to_json(self) -> str:
        """Return the line, without its end."""
        data = {name: value for name, value in asdict(self).items() if value not in (None, "")}
        if not self.pair:
            del data["left"]
        return json.dumps({"format": FORMAT, **encodable(_plain(data))}, ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the rating of a line.

        Raises:
            ValueError, KeyError, TypeError: it is no rating.
        """
        known = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        chains = tuple(RatedChain(**chain) for chain in known.pop("chains"))
        return cls(chains=chains, **known)


class Ratings:
    """The ratings of a run.

    Args:
        run: the run. Where its folder is read-only, or has something else of this name, they are kept with the index.

    Attributes:
        path: file that is written.
        elsewhere: it is not in the run's folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self._own = run.folder / FILE_NAME
        # A link in a folder of somebody else's may lead to any file of this person; a pipe would never end.
        sound = self._own.is_file() and not self._own.is_symlink()
        there = os.path.lexists(self._own)
        writable = (sound or not there) and os.access(self._own if there else run.folder, os.W_OK)
        self.path = self._own if writable else run.home / FILE_NAME
        self.elsewhere = not writable

    def read(self) -> tuple[list[Rating], int]:
        """Return the ratings that count, in order of time, and the number of lines that are none.

        Raises:
            ConfigError: the file cannot be read.
        """
        found: dict[str, Rating] = {}
        damaged = 0
        for path in dict.fromkeys((self._own, self.path)):
            if not path.is_file():
                continue
            try:
                ratings, undone, wrong = _read(path, *_signature(path))
            except FileNotFoundError:
                continue
            except OSError as fault:
                raise ConfigError(f"{str(path)!r} cannot be read: {fault.strerror or fault}") from fault
            found |= {rating.id: rating for rating in ratings}
            damaged += wrong
            for other in undone:
                found.pop(other, None)
        last = {(r.rater, r.task, r.images): r for r in sorted(found.values(), key=lambda rating: rating.time)}
        return sorted(last.values(), key=lambda rating: rating.time), damaged

    def add(self, rating: Rating) -> None:
        """Append a rating.

        Raises:
            OSError: the disk is full or broken; nothing of the line is left.
        """
        self._append(rating.to_json())

    def undo(self, rater: str) -> Rating | None:
        """Take the last rating of a rater back and return it; None where there is none.

        Raises:
            OSError: see `add`.
        """
        last = next((rating for rating in reversed(self.read()[0]) if rating.rater == rater), None)
        if last is not None:
            line = {"format": FORMAT, "undoes": last.id, "rater": rater, "time": time.time()}
            self._append(json.dumps(line, ensure_ascii=False))
        return last

    def _append(self, line: str) -> None:
        # A line that a killed process or a person left without an end must not take this one along.
        append_shared(self.path, f"\n{line}" if _is_torn(self.path) else line)


def rater_name(given: str) -> str:
    """Return a name as it is kept: without control characters and spaces around it, and "me" for none."""
    return " ".join(printable(str(given)).split())[:MOST_NAME].strip() or "me"


def run_identity(path: Path) -> str:
    """Return what names the run of a file of trajectories wherever it lies: a hash of its first line.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.readline(_HEAD)
    except OSError as fault:
        raise ConfigError(f"{str(path)!r} cannot be read: {fault.strerror or fault}") from fault
    return hashlib.sha256(head).hexdigest()[:16]


def _signature(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=16)
def _read(path: Path, *_: int) -> tuple[tuple[Rating, ...], tuple[str, ...], int]:
    """Return ratings, ids of those that are undone, and the number of lines that are neither."""
    ratings, undone, damaged = list[Rating](), list[str](), 0
    for line in _lines(path):
        try:
            data = json.loads(line)
            if data["format"] != FORMAT:
                raise ValueError(data["format"])
            if "undoes" in data:
                undone.append(str(data["undoes"]))
            else:
                ratings.append(Rating.from_dict(data))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            damaged += 1
    return tuple(ratings), tuple(undone), damaged


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield line


def _is_torn(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:  # it is not there, or empty
        return False


def _plain(value: Any) -> Any:
    """Return a value with lists for tuples, as JSON has them."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _is_short(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MOST_ID


def clamp_seconds(seconds: object) -> float:
    """Return the seconds that a verdict took, as a page says it, within a day."""
    return round(min(max(0.0, float(seconds)), _LONGEST), 2) if is_number(seconds) else 0.0
