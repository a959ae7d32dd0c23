"""Tasks to edit pictures: what one is, a world that makes them, and rows of a data set."""

from agentfly.datasets.photos import Split
from agentfly.datasets.rows import task_from_row, tasks_to_dataset
from agentfly.datasets.stickers import FAMILIES, StickerWorld
from agentfly.datasets.task import EditTask
from agentfly.datasets.wording import vocabulary

__all__ = ["FAMILIES", "EditTask", "Split", "StickerWorld", "task_from_row", "tasks_to_dataset", "vocabulary"]
