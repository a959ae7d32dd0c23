"""Write `stickers_sample.parquet`: two sticker tasks of each family and split, small enough to keep in the repository.

Run it from the root of the repository: `python data/build_stickers_sample.py`
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from agentfly.datasets import FAMILIES, EditTask, StickerWorld, tasks_to_dataset
from agentfly.datasets.photos import SPLITS

logger = logging.getLogger("build_stickers_sample")

DEFAULT_PATH = Path(__file__).parent / "stickers_sample.parquet"
SIDE, PER_FAMILY, SEED = 112, 2, 0


def sample_tasks() -> list[EditTask]:
    """Return the tasks of the sample, in the order of its rows."""
    world = StickerWorld(SIDE)
    return [
        world.task(index, split, family, SEED) for split in SPLITS for family in FAMILIES for index in range(PER_FAMILY)
    ]


def main() -> None:
    """Write the sample to the path on the command line, or to the default one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=DEFAULT_PATH)
    path: Path = parser.parse_args().path
    rows = tasks_to_dataset(sample_tasks())
    rows.to_parquet(str(path))
    logger.info("%s: %d rows, %d KiB", path, len(rows), path.stat().st_size // 1024)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
