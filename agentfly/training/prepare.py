"""A run made ready: its configuration composed, its tasks written for verl, both in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentfly.training.compose import compose, settings_of, write
from agentfly.training.launch import Launch
from agentfly.training.rows import write_rows
from agentfly.training.settings import TrainSettings

VALIDATION_TASKS = 8  # of the training tasks, where no validation tasks are given: verl insists on some


def prepare(recipe: Path, overrides: Sequence[str] = ()) -> Launch:
    """Compose a recipe, write its tasks and its `config.yaml` into the run's folder, and say what to launch.

    Raises:
        ConfigError: the recipe or an override is wrong.
        DatasetError: the tasks cannot be read.
    """
    config = compose(recipe, overrides)
    settings = settings_of(config)
    train, validation = write_tasks(settings)
    config.data.train_files, config.data.val_files = str(train), str(validation)
    return launch_of(config, write(config, settings.out / "config.yaml"))


def launch_of(config: Any, file: Path) -> Launch:
    """What to launch of a complete configuration in a file."""
    trainer = config.trainer
    named = trainer.resume_mode == "resume_path"
    return Launch(
        file,
        settings_of(config),
        int(trainer.total_training_steps),
        resume=trainer.resume_mode != "disable",
        resume_from=Path(trainer.resume_from_path) if named else None,
        validates_first=bool(trainer.val_before_train),
    )


def write_tasks(settings: TrainSettings) -> tuple[Path, Path]:
    """The files that verl reads of the training and the validation tasks; those that are ready are left where they are.

    Raises:
        DatasetError: a source cannot be read, or has no task.
    """
    data, folder = settings.data, settings.out / "data"
    train = _written(data.train, data.split, data.limit, folder, "train", settings)
    if data.validation is None:
        few = min(VALIDATION_TASKS, data.limit or VALIDATION_TASKS)
        return train, _written(data.train, data.split, few, folder, "validation", settings)
    return train, _written(
        data.validation, data.validation_split, data.validation_limit, folder, "validation", settings
    )


def _written(
    source: str, split: str | None, limit: int | None, folder: Path, name: str, settings: TrainSettings
) -> Path:
    if is_row_file(source):
        return Path(source).absolute()
    from agentfly.datasets import load_tasks

    return write_rows(load_tasks(source, split=split, limit=limit, seed=settings.seed), folder, name)


def is_row_file(source: str) -> bool:
    """Whether a source is a file that `write_rows` made for verl."""
    path = Path(source)
    if path.suffix != ".parquet" or not path.is_file():
        return False
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
    except (OSError, pyarrow.ArrowException):
        return False  # whoever reads it says what is wrong with it
    return "extra_info" in names and "reward_model" in names
