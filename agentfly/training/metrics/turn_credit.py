"""Credit by turn: the gain of each edit, put on the tokens of the turn that made it.

A reward at the end of a chain treats all tokens alike. The change of the score with each edit tells good turns from bad
ones, and the changes add up to the same reward.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentfly.errors import ConfigError
from agentfly.evaluators.base import EditSample, Evaluator
from agentfly.evaluators.reward import Reward

Placement = Literal["end", "even"]


@dataclass(frozen=True)
class TurnCredit:
    """The credit of the turns of a chain.

    Attributes:
        by_turn: change of score / 100 with each turn; 0 for a turn without an edit.
        rest: the part of the reward that comes from no edit: format, tool cost, length, clipping.
        token_rewards: one number for each response token; their sum is the chain's reward.
    """

    by_turn: tuple[float, ...]
    rest: float
    token_rewards: tuple[float, ...]


async def score_turns(evaluator: Evaluator, samples: Sequence[EditSample | None]) -> list[float | None]:
    """Return the scores (0 to 100) after each turn, all evaluated at once; None stays None.

    Args:
        evaluator: a `GuardedEvaluator` around it bounds how many run at once.
        samples: the task with the image as it was after each turn; None for a turn that made none.

    Raises:
        EvaluatorError: one of them cannot be scored: credit with a hole in it would go to the wrong turn.
    """
    wanted = [sample for sample in samples if sample is not None]
    scores = iter(await asyncio.gather(*(evaluator.evaluate(sample) for sample in wanted)))
    return [None if sample is None else next(scores).value for sample in samples]


def credit_turns(
    scores: Sequence[float | None],
    spans: Sequence[tuple[int, int]],
    reward: Reward,
    length: int,
    *,
    start: float = 0.0,
    placement: Placement = "end",
) -> TurnCredit:
    """Return the credit of each turn, and the rewards of a chain's tokens.

        credit_t  = (score_t - score_before_t) / 100        score_before_1 = start
        rest      = reward - sum of credit_t, on the last sampled token of the chain

    Args:
        scores: 0 to 100 after each turn; None where a turn made no edit.
        spans: sampled ids of each turn in the response, `Turn.start` to `Turn.end`; without any, its credit is rest.
        reward: of the chain.
        length: tokens of the response, observations included.
        start: score of the untouched source.
        placement: "end" puts a turn's credit on its last token, "even" spreads it; the sum is the reward either way.

    Raises:
        ConfigError: spans do not fit, or no token was sampled.
    """
    if len(scores) != len(spans):
        raise ConfigError(f"{len(scores)} scores for {len(spans)} turns: give one a turn, None where there was no edit")
    last_sampled = max((last for first, last in spans if last > first), default=0)
    if not last_sampled or any(not 0 <= first <= last <= length for first, last in spans):
        raise ConfigError(f"the spans {list(spans)} are no turns in a response of {length} tokens")
    by_turn, before, tokens = list[float](), start, [0.0] * length
    for score in scores:
        by_turn.append(0.0 if score is None else (score - before) / 100.0)
        before = before if score is None else score
    for credit, (first, last) in zip(by_turn, spans, strict=True):
        places = range(first if placement == "even" else max(first, last - 1), last)
        for place in places:
            tokens[place] += credit / len(places)
    tokens[last_sampled - 1] += reward.value - sum(tokens)
    return TurnCredit(tuple(by_turn), reward.value - sum(by_turn), tuple(tokens))
