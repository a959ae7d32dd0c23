"""Settings of the data of `agentfly sft`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from agentfly.settings import Settings


class DataConfig(Settings):
    """Sources of the samples, and limits for them.

    Attributes:
        stickers: number of tasks of the sticker world, played by the expert script.
        trajectories: JSONL files of trajectories, as agents, evaluations and training write them.
        openai: JSONL files in OpenAI's form.
        images: folder of the trajectories' images; by default `images` beside their file, or `pictures`, where earlier
            versions kept them.
        min_score: trajectories with a lower score, or with none, are left out; None takes all.
        per_task: number of trajectories of a task that are kept, the best by score; None keeps all.
        retokenise: make the ids of trajectories from their messages. Without it, recorded ids are used as they are,
            and this model's processor and template must give the same.
        max_length: ids of a sample at most; a longer one is cut at the end of a turn.
        held_out: share of the tasks that is only evaluated.
    """

    renamed: ClassVar[Mapping[str, str]] = {"pictures": "images"}

    stickers: int = Field(0, ge=0)
    trajectories: tuple[Path, ...] = ()
    openai: tuple[Path, ...] = ()
    images: Path | None = None
    min_score: float | None = None
    per_task: int | None = Field(None, ge=1)
    retokenise: bool = False
    max_length: int = Field(8192, ge=1)
    held_out: float = Field(0.05, ge=0, lt=1)
