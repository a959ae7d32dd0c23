"""The scores of a chain: those of evaluators, and that of the audit of a training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agentfly.agents.trajectory_file import AUDIT, TrajectoryLine
from agentfly.evaluators import NotScored
from agentfly.evaluators.reward import HIGHEST, LOWEST
from agentfly.viewer.chain.words import Cutter, Text, finite

# Of `agentfly.evaluators.reward.compose_reward`; a reward function may have any others.
_PARTS: Mapping[str, str] = {
    "edit": "the score, divided by 100",
    "format": "malformed calls, or no answer",
    "failed": "calls that failed",
    "tool_cost": "calls beyond the free ones",
    "overlong": "turns cut at their token limit",
}


@dataclass(frozen=True)
class RewardPart:
    """A part of the reward: its name, its meaning ("" where it is not known), and its value if that is a number."""

    name: str
    about: str
    value: float | None


@dataclass(frozen=True)
class RewardView:
    """What the trainer learns from.

    Attributes:
        value: None where there is none, or it is no number.
        parts: of it.
        words: how they make it, and its range; "" where that is not known.
    """

    value: float | None
    parts: tuple[RewardPart, ...] = ()
    words: str = ""


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


def reward_of(reward: object, parts: object) -> RewardView:
    """Return the reward of a chain with its parts."""
    value = finite(reward)
    found = tuple(RewardPart(name, _PARTS.get(name, ""), part) for name, part in numbers(parts))
    if not found or value is None:
        return RewardView(value, found)
    total, ours = math.fsum(part.value or 0.0 for part in found), all(part.about for part in found)
    words = ""
    if math.isclose(total, value, abs_tol=1e-6):
        words = "The sum of its parts"
    elif ours and math.isclose(min(max(total, LOWEST), HIGHEST), value, abs_tol=1e-6):
        words = f"The sum of its parts ({total:.3g}), cut at the end of its range"
    return RewardView(value, found, f"{words}; from {LOWEST:g} to {HIGHEST:g}" if words and ours else words)


def numbers(values: object) -> tuple[tuple[str, float | None], ...]:
    """Return names and numbers of a mapping; None for what is no finite number."""
    if not isinstance(values, Mapping):
        return ()
    return tuple((str(name)[:80], finite(value)) for name, value in values.items())
