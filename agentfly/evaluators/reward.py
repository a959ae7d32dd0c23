"""The reward of a score, in named parts that are logged one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from agentfly.evaluators.base import Score
from agentfly.settings import Settings

LOWEST, HIGHEST = -0.2, 1.0


class RewardConfig(Settings):
    """Weights of the parts.

    Attributes:
        format_weight: deduction for each malformed call, and for ending without an answer.
        max_format_penalty: largest deduction for malformed calls and a missing answer together.
        tool_cost: deduction for each tool call beyond the free ones.
        free_tool_calls: number of calls that cost nothing.
        failed_call_cost: deduction for each well-formed call that failed.
        overlong_cost: deduction for each turn that was cut at its token limit.
    """

    format_weight: float = Field(0.05, ge=0)
    max_format_penalty: float = Field(0.2, ge=0)
    tool_cost: float = Field(0.01, ge=0)
    free_tool_calls: int = Field(2, ge=0)
    failed_call_cost: float = Field(0.01, ge=0)
    overlong_cost: float = Field(0.02, ge=0)


@dataclass(frozen=True)
class Reward:
    """A reward and its parts; `value` is the sum of the parts, clipped to [-0.2, 1]."""

    value: float
    parts: Mapping[str, float]


def compose_reward(
    score: Score,
    *,
    answered: bool,
    malformed_calls: int,
    failed_calls: int,
    tool_calls: int,
    overlong_turns: int,
    config: RewardConfig,
) -> Reward:
    """Return the reward of a chain.

        edit      =  score / 100
        format    = -min(max_format_penalty, format_weight * (malformed_calls + [no answer]))
        failed    = -failed_call_cost * (failed_calls - malformed_calls)
        tool_cost = -tool_cost * max(0, tool_calls - free_tool_calls)
        overlong  = -overlong_cost * overlong_turns
        value     =  edit + format + failed + tool_cost + overlong, clipped to [-0.2, 1]

    Args:
        score: judgement of the result.
        answered: the chain ended with an answer.
        malformed_calls: number of calls that could not be parsed.
        failed_calls: number of calls answered by an error, malformed ones included.
        tool_calls: number of all calls, those of tools that only look included.
        overlong_turns: number of turns cut at their token limit.
        config: the weights.
    """
    faults = malformed_calls + (not answered)
    parts = {
        "edit": score.value / 100.0,
        "format": -min(config.max_format_penalty, config.format_weight * faults),
        "failed": -config.failed_call_cost * max(0, failed_calls - malformed_calls),
        "tool_cost": -config.tool_cost * max(0, tool_calls - config.free_tool_calls),
        "overlong": -config.overlong_cost * overlong_turns,
    }
    # "-0.0" reads badly in logs.
    parts = {name: part + 0.0 for name, part in parts.items()}
    return Reward(min(max(sum(parts.values()), LOWEST), HIGHEST), parts)
