"""The scores of a chain: those of evaluators, and that of the audit of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agentfly.agents.trajectory_file import AUDIT, TrajectoryLine
from agentfly.evaluators import NotScored
from agentfly.viewer.chain.words import Cutter, Text, finite


@dataclass(frozen=True)
class ScoreView:
    """The judgement of one evaluator.

    Attributes:
        name: of the evaluator; "" for the score of the trajectory itself.
        value: 0 to 100; None where it is no number.
        aspects: names and values, 0 to 1.
        feedback: words; None for none.
        missing: the reason for which there is no score.
        usage: requests and tokens of a judge, in words.
    """

    name: str
    value: float | None
    aspects: tuple[tuple[str, float | None], ...] = ()
    feedback: Text | None = None
    missing: Text | None = None
    usage: str = ""


@dataclass(frozen=True)
class AuditView:
    """The score of the auditing evaluator of a training.

    Attributes:
        value: 0 to 100; None where there is none.
        difference: to the score of the chain; None where one of them is missing.
        missing: the reason for which there is no score.
    """

    value: float | None
    difference: float | None
    missing: Text | None


def scores_of(line: TrajectoryLine, cut: Cutter) -> Iterator[ScoreView]:
    """Yield the judgements without an audit: those of evaluators, or that of the trajectory where none is named."""
    t = line.trajectory
    if (t.score is not None or t.aspects) and not line.headlines:
        yield ScoreView("", finite(t.score), numbers(t.aspects))
    for name, score in line.headlines.items():
        shown = cut(str(name), 80).shown
        if isinstance(score, NotScored):
            yield ScoreView(shown, None, missing=cut(str(score.reason)))
            continue
        usage = line.judges.get(name)
        words = f"requests: {usage.requests}, tokens: {usage.prompt_tokens + usage.completion_tokens}" if usage else ""
        feedback = cut(str(score.feedback), 2000) if score.feedback else None
        yield ScoreView(shown, finite(score.value), numbers(score.aspects), feedback, usage=words)


def audit_of(line: TrajectoryLine, cut: Cutter) -> AuditView | None:
    """Return the audit of a chain of a training; None where there was none."""
    found = None if AUDIT in line.headlines else line.scores.get(AUDIT)
    if found is None:
        return None
    if isinstance(found, NotScored):
        return AuditView(None, None, cut(str(found.reason)))
    value, score = finite(found.value), finite(line.trajectory.score)
    return AuditView(value, None if value is None or score is None else value - score, None)


def numbers(values: object) -> tuple[tuple[str, float | None], ...]:
    """Return names and numbers of a mapping; None for what is no finite number."""
    if not isinstance(values, Mapping):
        return ()
    return tuple((str(name)[:80], finite(value)) for name, value in values.items())
