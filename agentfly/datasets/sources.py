"""Load a data set by name or by path."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from agentfly.datasets.local import LocalOptions, local_rows
from agentfly.datasets.photos import SPLITS
from agentfly.datasets.public.benchmarks import imgedit_rows, kris_rows, magicbrush_test_rows, risebench_rows
from agentfly.datasets.public.columns import ADAPTERS
from agentfly.datasets.public.tasks import HubOptions, public_rows
from agentfly.datasets.stickers import ALL_FAMILIES, FAMILIES, StickerWorld
from agentfly.datasets.task import EditTask, TaskRow
from agentfly.errors import ConfigError, DatasetError, unknown_name
from agentfly.settings import Settings

_BENCHMARKS: Mapping[str, Callable[[Path, str | None], Iterator[TaskRow]]] = {
    "imgedit": imgedit_rows,
    "risebench": risebench_rows,
    "kris": kris_rows,
}
SOURCES: tuple[str, ...] = ("stickers", *ADAPTERS, *_BENCHMARKS)
_ALIASES: Mapping[str, str] = {
    **{name: name for name in SOURCES},
    **{adapter.repo.lower(): name for name, adapter in ADAPTERS.items()},
    "gedit": "gedit-bench",
    "pie-bench": "pie-bench++",
}


class StickerOptions(Settings):
    """Options of the sticker world.

    Attributes:
        families: of the tasks, from `ALL_FAMILIES`; they take turns.
        count: number of tasks; by default `limit`, or 500.
        side: width and height of the images in pixels.
    """

    families: tuple[str, ...] = FAMILIES
    count: int | None = None
    side: int = 168


def load_tasks(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    **options: object,
) -> Iterator[EditTask]:
    """Yield the tasks of a data set, each made when it is asked for.

    Args:
        source: one of `SOURCES`, a data set's name on the hub, or the path of a `.jsonl`, `.parquet` or `.arrow` file,
            or of a folder of images. Names go before paths; `./stickers` is a path.
        split: in the data set's own words; by default its first one ("train" for the stickers).
        limit: tasks at most.
        seed: of generated data (the stickers); public data keeps its order.
        root: folder with the downloaded files of a data set by name; by default they come from the hub.
        **options: fields of `StickerOptions`, `HubOptions` or `LocalOptions`, as the source requires.

    Raises:
        ConfigError: unknown name, split or option; the message offers the nearest.
        DatasetError: the data cannot be read, or a row is no task; raised when the row is reached, which the message
            names.
    """
    return (row.task() for row in task_rows(source, split=split, limit=limit, seed=seed, root=root, **options))


def task_rows(
    source: str | Path,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    **options: object,
) -> Iterator[TaskRow]:
    """Yield the rows that `load_tasks` reads. A row that is no task raises when it is made; later ones still follow."""
    if limit is not None and limit < 0:
        raise ConfigError(f"limit must be at least 0, got {limit}")
    name = _ALIASES.get(str(source).lower()) if isinstance(source, str) else None
    root = None if root is None else Path(root)
    if name == "stickers":
        rows = _sticker_rows(StickerOptions(**options), split or "train", seed, limit)
    elif name == "magicbrush" and split == "test":
        if root is None:
            raise DatasetError(
                "the test split of magicbrush is not on the hub: unpack it and name its folder with root=FOLDER, on "
                "the command line --root FOLDER"
            )
        rows = magicbrush_test_rows(root, HubOptions(**options).multi_turn)
    elif name is not None and name in ADAPTERS:
        rows = public_rows(name, split, root, HubOptions(**options))
    elif name is not None:
        if options:
            raise ConfigError(f"{name} takes no options, got {', '.join(options)}")
        if root is None:
            raise DatasetError(
                f"{name} is read from its own files: download them and name their folder with root=FOLDER, on the "
                "command line --root FOLDER"
            )
        rows = _BENCHMARKS[name](root, split)
    else:
        path = Path(source).expanduser()
        if not path.exists():
            if isinstance(source, Path) or path.suffix or source.startswith((".", "~", os.sep)):
                raise DatasetError(f"there is no file or folder {source}")
            raise ConfigError(f"{unknown_name('data set', source, SOURCES)}; or give the path of a file or folder")
        rows = local_rows(path, split, LocalOptions(**options))
    return itertools.islice(rows, limit)


def _sticker_rows(options: StickerOptions, split: str, seed: int, limit: int | None) -> Iterator[TaskRow]:
    known = next((name for name in SPLITS if name == split), None)
    if known is None:
        raise ConfigError(unknown_name("split of stickers", split, SPLITS))
    families = options.families
    if not families or not set(families) <= set(ALL_FAMILIES):
        wrong = next((family for family in families if family not in ALL_FAMILIES), "")
        raise ConfigError(unknown_name("family", wrong, ALL_FAMILIES))
    world = StickerWorld(options.side)
    count = options.count if options.count is not None else 500 if limit is None else limit
    return (
        TaskRow(f"stickers {split} {index}", partial(world.task, index, known, families[index % len(families)], seed))
        for index in range(count)
    )
