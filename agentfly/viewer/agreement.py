"""Compare the verdicts of people with the scores of evaluators, and write both for the calibration of evaluators.

A row is a rating with what it is about, in the form `agentfly.calibration/1` (docs/viewer.md lists its fields). The
share of comparisons in which evaluator and person prefer the same result has a 95 % Wilson interval (Wilson, 1927).
Scores are compared by the rank correlation of Spearman, with the interval of Bonett and Wright (2000).
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from agentfly.errors import AgentFlyError, ConfigError
from agentfly.evaluators import NotScored
from agentfly.evaluators.bootstrap import Estimate, preference_credit, spearman, wilson
from agentfly.files import encodable, write_text
from agentfly.viewer.index import Row
from agentfly.viewer.opened import OpenRun, Viewer
from agentfly.viewer.ratings import FORMAT as RATING_FORMAT
from agentfly.viewer.ratings import RatedChain, Rating, Ratings, run_identity

logger = logging.getLogger(__name__)

FORMAT = "agentfly.calibration/1"
SCORE = "score"  # the name of the score by which the reward was paid
FEWEST = 10  # ratings for which an agreement is shown
_PREFERENCE = {"better": 1.0, "tie": 0.5, "worse": 0.0}
# A cell that begins so is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class RatedResult:
    """A result in a row.

    Attributes:
        run, chain, image: see `RatedChain`.
        path: of the image file; "" where it is not known.
        scores: of evaluators by name, 0 to 100; under "score" the one by which the reward was paid.
    """

    run: str
    chain: str
    image: str
    path: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class CalibrationRow:
    """A rating with what it is about.

    Attributes:
        kind: "pair" or "single".
        task, task_type, instruction: of the task.
        source, source_path: handle and file of the image that was edited.
        human_score: of a single result, 0 to 100.
        human_preference: of a comparison: 1 where the first result is better, 0.5 for a tie, 0 where it is worse.
        results: one or two.
        left: of a comparison: the place in `results` of the one that was shown on the left.
        rater, words, time, seconds: see `agentfly.viewer.ratings`.
    """

    kind: str
    task: str
    task_type: str
    instruction: str
    source: str
    source_path: str
    human_score: float | None
    human_preference: float | None
    results: tuple[RatedResult, ...]
    left: int | None
    rater: str
    words: str
    time: float
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """Return the row for JSON; what does not apply is left out."""
        data = {name: value for name, value in asdict(self).items() if value is not None}
        return {"format": FORMAT, **data, "results": [asdict(result) for result in self.results]}

    def to_cells(self) -> dict[str, object]:
        """Return the row for a table: the fields of the first result as `a_…`, of the second one as `b_…`."""
        data = {name: value for name, value in asdict(self).items() if name != "results"}
        for letter, result in zip("ab", self.results, strict=False):
            cells = asdict(result)
            cells |= {name if name == SCORE else f"{SCORE}[{name}]": v for name, v in cells.pop("scores").items()}
            data |= {f"{letter}_{name}": value for name, value in cells.items()}
        return {name: _cell(value) for name, value in data.items()}


@dataclass(frozen=True)
class Agreement:
    """Agreement of people with one evaluator.

    Attributes:
        evaluator: its name.
        pairs, accuracy: comparisons in which the person preferred one result, and the share in which the evaluator did
            too; where it gave both the same score, it counts one half. None below `FEWEST`.
        ties: comparisons that the person called a tie, which are not counted.
        singles, correlation: scores, and their rank correlation. None below `FEWEST`, and where one side never varies.
    """

    evaluator: str
    pairs: int
    accuracy: Estimate | None
    ties: int
    singles: int
    correlation: Estimate | None

    def in_words(self) -> str:
        """Return one line."""
        name, parts = "the score of the reward" if self.evaluator == SCORE else self.evaluator, []
        if self.pairs or self.ties:
            parts.append(f"{self.pairs} comparisons and {self.ties} ties")
        if (share := self.accuracy) is not None:
            interval = f"{100 * share.low:.0f} to {100 * share.high:.0f}"
            parts.append(f"the same preference in {100 * share.mean:.0f} % ({interval})")
        if self.singles:
            parts.append(f"{self.singles} scores")
        if (rank := self.correlation) is not None:
            parts.append(f"rank correlation {rank.mean:.2f} ({rank.low:.2f} to {rank.high:.2f})")
        return f"{name}: {', '.join(parts)}"


class Rated:
    """Look up what ratings are about, among the runs of a viewer.

    Args:
        viewer: with the runs.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._parts: dict[str, list[tuple[OpenRun, int]]] = {}
        for run in viewer.runs.values():
            for part in run.index.query("SELECT part, path FROM parts"):
                try:
                    identity = run_identity(Path(part["path"]))
                except AgentFlyError:
                    continue
                self._parts.setdefault(identity, []).append((run, part["part"]))

    def rows(self, ratings: Iterable[Rating]) -> Iterator[CalibrationRow]:
        """Yield the rows of ratings; those that were skipped have none, and a chain that is gone has no scores."""
        for rating in ratings:
            if not rating.skipped:
                yield self._row(rating)

    def _row(self, rating: Rating) -> CalibrationRow:
        found = [self._find(chain, rating.task) for chain in rating.chains]
        results = tuple(_result(chain, known) for chain, known in zip(rating.chains, found, strict=True))
        run, row = next((known for known in found if known is not None), (None, None))
        return CalibrationRow(
            kind="pair" if rating.pair else "single",
            task=rating.task,
            task_type="" if row is None else row.task_type,
            instruction="" if run is None or row is None else _line_facts(run, row.n, row.offset, row.length)[0],
            source="" if row is None else row.source or "",
            source_path="" if run is None or row is None else _path(run, row.part, row.source),
            human_score=rating.score,
            human_preference=_PREFERENCE.get(rating.verdict or ""),
            results=results,
            left=rating.left if rating.pair else None,
            rater=rating.rater,
            words=rating.words,
            time=rating.time,
            seconds=rating.seconds,
        )

    def _find(self, rated: RatedChain, task: str) -> tuple[OpenRun, Row] | None:
        for run, part in self._parts.get(rated.run, ()):
            # The key of a chain is its id, or in evaluations that of its task; there is no index of ids.
            sql = "SELECT n FROM chains WHERE part = ? AND key IN (?, ?) AND id = ? AND final = ?"
            for found in run.index.query(sql, part, rated.chain, task, rated.chain, rated.image):
                return run, run.index.row(found["n"])
        return None


def _result(rated: RatedChain, known: tuple[OpenRun, Row] | None) -> RatedResult:
    if known is None:
        return RatedResult(rated.run, rated.chain, rated.image, "", {})
    run, row = known
    scores = {} if row.score is None else {SCORE: row.score}
    scores |= _line_facts(run, row.n, row.offset, row.length)[1]
    return RatedResult(rated.run, rated.chain, rated.image, _path(run, row.part, rated.image), scores)


@lru_cache(maxsize=16_384)
def _line_facts(run: OpenRun, n: int, *_: int) -> tuple[str, Mapping[str, float]]:
    """Return the instruction of a chain, and its scores by evaluator."""
    try:
        line = run.index.line(n)
    except (AgentFlyError, KeyError):  # the file has changed in between
        return "", {}
    scores = {name: score.value for name, score in line.scores.items() if not isinstance(score, NotScored)}
    return line.described_task().instruction, {name: value for name, value in scores.items() if math.isfinite(value)}


def _path(run: OpenRun, part: int, handle: str | None) -> str:
    path = run.images(part).path(handle) if handle else None
    return "" if path is None or not path.is_file() else str(path)


def write_rows(rows: Sequence[CalibrationRow], file: Path) -> None:
    """Write rows as JSON lines, or as a table where the file is named .csv.

    Raises:
        ConfigError: the file has another suffix.
        OSError: it cannot be written.
    """
    if file.suffix not in (".jsonl", ".csv"):
        raise ConfigError(f"--ratings {str(file)!r}: name a file that ends in .jsonl or .csv")
    if file.suffix == ".jsonl":
        text = "".join(f"{json.dumps(encodable(row.to_dict()), ensure_ascii=False)}\n" for row in rows)
    else:
        cells = [row.to_cells() for row in rows]
        out = io.StringIO()
        table = csv.DictWriter(out, list(dict.fromkeys(name for row in cells for name in row)), lineterminator="\n")
        table.writeheader()
        table.writerows(cells)
        text = out.getvalue()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)


def agreements(rows: Sequence[CalibrationRow]) -> list[Agreement]:
    """Return how well each evaluator agrees with people, that of the reward first."""
    names = dict.fromkeys([SCORE, *sorted({name for row in rows for result in row.results for name in result.scores})])
    return [found for name in names if (found := _agreement(rows, name)).pairs + found.singles + found.ties]


def _agreement(rows: Sequence[CalibrationRow], name: str) -> Agreement:
    scored = [row for row in rows if all(name in result.scores for result in row.results)]
    pairs = [row for row in scored if row.human_preference is not None]
    credits = [
        preference_credit(row.human_preference, row.results[0].scores[name] - row.results[1].scores[name])
        for row in pairs
        if row.human_preference is not None and row.human_preference != 0.5
    ]
    singles = [(row.human_score, row.results[0].scores[name]) for row in scored if row.human_score is not None]
    people, evaluator = [one for one, _ in singles], [other for _, other in singles]
    return Agreement(
        name,
        len(credits),
        wilson(sum(credits), len(credits)) if len(credits) >= FEWEST else None,
        len(pairs) - len(credits),
        len(singles),
        spearman(people, evaluator) if len(singles) >= FEWEST else None,
    )


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return "" if value is None else value
    return f"'{encodable(value)}" if value.startswith(_FORMULA) else encodable(value)


def export_ratings(viewer: Viewer, file: Path) -> list[CalibrationRow]:
    """Write the ratings of all runs of a viewer, and return the rows.

    Raises:
        ConfigError: there are none, or the suffix of the file is not known.
        OSError: the file cannot be written.
    """
    for run in viewer.runs.values():
        run.index.refresh()
    ratings, damaged = dict[str, Rating](), 0
    for run in viewer.runs.values():
        kept, wrong = Ratings(run.run).read()
        ratings |= {rating.id: rating for rating in kept}
        damaged += wrong
    if damaged:
        logger.warning("%d lines of ratings.jsonl are no ratings (%s) and are left out", damaged, RATING_FORMAT)
    rows = list(Rated(viewer).rows(ratings.values()))
    if not rows:
        raise ConfigError("there are no ratings yet: open the page Rate of a run, and give some")
    if lost := sum(not all(result.path for result in row.results) for row in rows):
        logger.warning("%d of %d ratings are of chains or images that these runs do not have", lost, len(rows))
    write_rows(rows, file)
    return rows
