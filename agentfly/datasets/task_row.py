"""A row of a data set that may still prove not to be a task: where it is, and how to make a task of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agentfly.datasets.task import EditTask
from agentfly.errors import DatasetError, ImageError


@dataclass(frozen=True)
class TaskRow:
    """One row, not read yet, so that a broken one need not end the reading of the others.

    Attributes:
        where: for messages, e.g. "tasks.jsonl line 3".
        make: makes the task; raises `DatasetError` or `ImageError`.
    """

    where: str
    make: Callable[[], EditTask]

    def task(self) -> EditTask:
        """The task.

        Raises:
            DatasetError: the row is no task; the message says where it is and why.
        """
        try:
            return self.make()
        except (DatasetError, ImageError) as fault:
            raise DatasetError(f"{self.where}: {fault}") from fault


def numbered(turns: list[str]) -> str:
    """The instructions of several turns as one: the only one as it is, several as a numbered list."""
    return turns[0] if len(turns) == 1 else "\n".join(f"{number}. {turn}" for number, turn in enumerate(turns, 1))
