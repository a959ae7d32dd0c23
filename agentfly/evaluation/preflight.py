"""Check that the first tasks can be scored, before anything is spent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agentfly.agents import edit_sample
from agentfly.datasets.task import EditTask
from agentfly.errors import ConfigError, EvaluatorError, ImageError
from agentfly.evaluators import Evaluator, check_sample

FIRST_TASKS = 16  # that are looked at


async def count_scorable(evaluator: Evaluator, tasks: Sequence[EditTask]) -> int:
    """Count the tasks that have what their score needs; nothing that costs anything is asked.

    Args:
        evaluator: who would score.
        tasks: the first ones of a data set; none are no reason to object.

    Raises:
        ConfigError: none of them has; the message gives the reason of the first one.
    """
    faults: list[str] = []
    for task in tasks:
        try:
            await check_sample(evaluator, await asyncio.to_thread(edit_sample, task, None))
        except (EvaluatorError, ImageError) as fault:
            faults.append(str(fault))
    if faults and len(faults) == len(tasks):
        raise ConfigError(f"none of the first {len(tasks)} tasks can be scored: {faults[0]}")
    return len(tasks) - len(faults)
