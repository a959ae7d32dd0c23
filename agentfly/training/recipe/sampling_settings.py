"""Settings of which tasks and which groups of chains a step trains on."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from agentfly.settings import Settings, on_or_off
from agentfly.training.metrics.reward_groups import EQUAL


class RefillSettings(Settings):
    """Groups whose chains all have the same reward are replaced: a step is sampled until all of its groups teach.

    Attributes:
        spread: standard deviation of a group's rewards (of the population) below which it is replaced.
        most: groups that a step may replace, in batches of `data.train_batch_size`; further ones are trained on as they
            are, so that a policy that has nothing more to learn does not sample for ever.
    """

    spread: float = Field(EQUAL, gt=0)
    most: float = Field(3.0, gt=0)


class CurriculumSettings(Settings):
    """Tasks are drawn by how much the policy can learn from them; see `agentfly.training.metrics.task_difficulty`.

    Attributes:
        candidates: tasks that are looked at for each one that is drawn; 1 draws at random.
        half_life: steps after which an observation counts half, since the policy changes.
        strength: chains that the experience with all tasks of a type counts for in the estimate of one of them.
    """

    candidates: int = Field(4, ge=1)
    half_life: float = Field(20.0, gt=0)
    strength: float = Field(2.0, gt=0)


# true, false, or the settings themselves; false becomes None.
RefillOrNot = Annotated[RefillSettings | None, BeforeValidator(on_or_off)]
CurriculumOrNot = Annotated[CurriculumSettings | None, BeforeValidator(on_or_off)]
