"""Prepare a run: write its configuration and its tasks, as verl reads them, into the run's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentfly.errors import ConfigError
from agentfly.files import write_text
from agentfly.provenance import record_environment
from agentfly.templates import load_template
from agentfly.training.launch.launcher import Launch
from agentfly.training.launch.resume import check_same_run, leave_checkpoints, only_run
from agentfly.training.recipe.checks import check_model, check_tasks
from agentfly.training.recipe.compose import settings_of, write
from agentfly.training.recipe.readiness import require_servers
from agentfly.training.recipe.settings import TEMPLATE, TrainSettings
from agentfly.training.recipe.verl_dataset import read_task, write_rows

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from agentfly.datasets import EditTask

VALIDATION_TASKS = 8  # taken from the training tasks where no validation tasks are given: verl insists on some


def prepare(config: DictConfig) -> Launch:
    """Write the tasks and the `config.yaml` of a run into its folder.

    Args:
        config: composed, see `agentfly.training.recipe.compose`; gets the paths of the tasks' files.

    Returns:
        The run to launch.

    Raises:
        ConfigError: a value is wrong, no image server can be used, or the folder belongs to another run.
        DatasetError: the tasks cannot be read.
    """
    settings = settings_of(config)
    check_model(settings)
    require_servers(settings)
    file = settings.out / "config.yaml"
    with only_run(settings.out):
        check_same_run(config, settings, file)
        if config.trainer.resume_mode == "disable":
            leave_checkpoints(settings.checkpoint_dir)
        if settings.template is not None:
            write_text(settings.out / TEMPLATE, load_template(settings.template))
        train, validation = write_tasks(settings)
        check_tasks(config, count_rows(train))
        config.data.train_files, config.data.val_files = str(train), str(validation)
        write(config, file)
        record_environment(settings.out)
    trainer = config.trainer
    named = trainer.resume_mode == "resume_path"
    return Launch(
        file,
        settings,
        int(trainer.total_training_steps),
        resume=trainer.resume_mode != "disable",
        resume_from=Path(trainer.resume_from_path) if named else None,
        validates_first=bool(trainer.val_before_train),
    )


def write_tasks(settings: TrainSettings) -> tuple[Path, Path]:
    """Write the training and the validation tasks for verl and return their files.

    Files that were converted before are used where they are.

    Raises:
        DatasetError: a source cannot be read, or has no task.
    """
    data, folder = settings.data, settings.out / "data"
    train = ready_file(settings) or write_rows(training_tasks(settings), folder, "train")
    if data.validation is None:
        few = min(VALIDATION_TASKS, data.limit or VALIDATION_TASKS)
        return train, write_rows(training_tasks(settings, few), folder, "validation")
    held_out = (data.validation, data.validation_split, data.validation_limit, data.validation_options)
    return train, _ready(*held_out) or write_rows(_tasks(*held_out, settings.seed), folder, "validation")


def training_tasks(settings: TrainSettings, limit: int | None = None) -> Iterator[EditTask]:
    """Read the training tasks from their source.

    Args:
        settings: of the run.
        limit: number of tasks at most, in place of the settings' own.
    """
    data = settings.data
    return _tasks(data.train, data.split, data.limit if limit is None else limit, data.options, settings.seed)


def _tasks(
    source: str, split: str | None, limit: int | None, options: Mapping[str, Any], seed: int
) -> Iterator[EditTask]:
    if is_row_file(source):
        import pyarrow.parquet

        if split is not None or options:
            raise ConfigError(f"{source} was converted already: it has no split, and takes no options")
        rows = pyarrow.parquet.read_table(source, columns=["extra_info"]).slice(0, limit).to_pylist()
        return (read_task(row["extra_info"]) for row in rows)
    from agentfly.datasets import load_tasks

    return load_tasks(source, split=split, limit=limit, seed=seed, **options)


def ready_file(settings: TrainSettings) -> Path | None:
    """Return the file of training tasks if it was converted before and is used as it is, else None."""
    data = settings.data
    return _ready(data.train, data.split, data.limit, data.options)


def _ready(source: str, split: str | None, limit: int | None, options: Mapping[str, object]) -> Path | None:
    if split is None and limit is None and not options and is_row_file(source):
        return Path(source).absolute()
    return None


def count_rows(file: Path) -> int:
    """Return the number of rows of a parquet file, from its footer."""
    import pyarrow.parquet

    return int(pyarrow.parquet.read_metadata(file).num_rows)


def is_row_file(source: str) -> bool:
    """Return True for a file that `write_rows` made for verl."""
    path = Path(source)
    if path.suffix != ".parquet" or not path.is_file():
        return False
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
    except (OSError, pyarrow.ArrowException):
        return False  # the reader of the file reports the error
    return "extra_info" in names and "reward_model" in names
