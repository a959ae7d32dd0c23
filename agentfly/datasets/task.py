"""An editing task: an instruction on one or more images, with target and mask where they are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentfly.errors import DatasetError, ImageError
from agentfly.images import ImageSource


@dataclass(frozen=True)
class EditTask:
    """An instruction on one or more images.

    Attributes:
        id: unique within its data set.
        instruction: in the words of the user.
        images: sources of the images (path, URL, bytes, PIL, ...), the one to edit first.
        target: the wanted result, None where it is not known.
        mask: white where the image must change, None where it is not known; as large as the first image.
        task_type: family in tables, such as "named" or "look".
        metadata: further data, JSON-able.
        references: images by name that only evaluators see, such as a published answer. Rows that `rows` writes have
            none.
    """

    id: str
    instruction: str
    images: tuple[ImageSource, ...]
    target: ImageSource | None = None
    mask: ImageSource | None = None
    task_type: str = "edit"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    references: Mapping[str, ImageSource] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskRow:
    """A row of a data set that is not read yet, so that a broken one need not end the reading of the others.

    Attributes:
        where: name of the row in messages, such as "tasks.jsonl line 3".
        make: makes the task; raises `DatasetError` or `ImageError`.
    """

    where: str
    make: Callable[[], EditTask]

    def task(self) -> EditTask:
        """Make the task.

        Raises:
            DatasetError: the row is no task; the message names the row and the reason.
        """
        try:
            return self.make()
        except (DatasetError, ImageError) as fault:
            raise DatasetError(f"{self.where}: {fault}") from fault
