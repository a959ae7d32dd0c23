"""Credit by turn: the gain of each edit, put on the tokens of the turn that made it.

A reward at the end of a chain treats all tokens alike. The difference that each edit makes to the score tells good
turns from bad ones, and the differences add up to the same reward.
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
    """What the turns of a chain earned.

    Attributes:
        by_turn: the change of score / 100 that each turn made; 0 for a turn without an edit.
        rest: the reward that no edit made: format, tool cost, length, clipping.
        token_rewards: one number a response token; their sum is the chain's reward.
    """

    by_turn: tuple[float, ...]
    rest: float
    token_rewards: tuple[float, ...]


async def score_turns(evaluator: Evaluator, samples: Sequence[EditSample | None]) -> list[float | None]:
    """Scores (0 to 100) after each turn, all evaluated at once; None stays None.

    Args:
        evaluator: put a `GuardedEvaluator` around it to bound how many run.
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
    """The credit of each turn, and the rewards of a chain's tokens.

        credit_t  = (score_t - score_before_t) / 100        score_before_1 = start
        rest      = reward - sum of credit_t, on the last sampled token of the chain

    "end" puts a turn's credit on its last token, "even" spreads it over its tokens. Both leave the sum at the reward.

    Args:
        scores: 0 to 100 after each turn; None where a turn made no edit.
        spans: start and end of the sampled ids of each turn in the response (`Turn.start`, `Turn.end`); a turn
            without ids has an empty one, and its credit goes with the rest.
        reward: of the chain.
        length: tokens of the response, observations included.
        start: score of the untouched source.
        placement: "end" or "even".

    Raises:
        ConfigError: spans do not fit, or no token was sampled.
    """
    if len(scores) != len(spans):
        raise ConfigError(f"{len(scores)} scores for {len(spans)} turns: give one a turn, None where there was no edit")
    sampled = [span for span in spans if span[1] > span[0]]
    if not sampled or any(not 0 <= first <= last <= length for first, last in spans):
        raise ConfigError(f"the spans {list(spans)} are no turns in a response of {length} tokens")
    by_turn, before = [], start
    for score in scores:
        by_turn.append(0.0 if score is None else (score - before) / 100.0)
        before = before if score is None else score
    tokens = [0.0] * length
    for credit, (first, last) in zip(by_turn, spans, strict=True):
        if last > first:
            places = range(first, last) if placement == "even" else range(last - 1, last)
            for place in places:
                tokens[place] += credit / len(places)
    rest = reward.value - sum(by_turn)
    tokens[max(last for _, last in sampled) - 1] += reward.value - sum(tokens)
    return TurnCredit(tuple(by_turn), rest, tuple(tokens))
