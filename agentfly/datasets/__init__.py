"""Image-editing tasks: data sets of them, a generator of them, and their rows."""

from agentfly.datasets.check import CheckReport, check_rows
from agentfly.datasets.photos import Split
from agentfly.datasets.rows import task_from_row, tasks_to_dataset
from agentfly.datasets.sources import SOURCES, load_tasks, task_rows
from agentfly.datasets.stickers import ALL_FAMILIES, FAMILIES, LOOK_FAMILIES, RETOUCH_FAMILIES, StickerWorld
from agentfly.datasets.task import EditTask
from agentfly.datasets.wording import vocabulary

__all__ = [
    "ALL_FAMILIES",
    "FAMILIES",
    "LOOK_FAMILIES",
    "RETOUCH_FAMILIES",
    "SOURCES",
    "CheckReport",
    "EditTask",
    "Split",
    "StickerWorld",
    "check_rows",
    "load_tasks",
    "task_from_row",
    "task_rows",
    "tasks_to_dataset",
    "vocabulary",
]
