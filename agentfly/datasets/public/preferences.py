"""Read pairs of edits that people compared: public benchmarks of rewards, and the verdicts of the viewer.

Columns as published in November 2026:

- `editreward-bench` (huggingface.co/datasets/TIGER-Lab/EditReward-Bench; github.com/TIGER-AI-Lab/EditReward,
  `evaluate/inference_*pair_hf.py`): id, dataset (2pair, 3pair or 4pair), instruction, source_image, candidate_1,
  candidate_2, comparison_type (such as AvsC), ranking (such as A>C, C>A, or A=B). The part of the id before "_" names
  the comparison of three or four results that a row of 3pair or 4pair belongs to; a row of 2pair stands alone.
- `editscore-bench` (huggingface.co/datasets/EditScore/EditReward-Bench; github.com/VectorSpaceLab/EditScore,
  `evaluation.py`): key (two ids), task_type, dimension (prompt_following, consistency or overall), instruction,
  input_image, output_images (two, the better one first).
- `agentfly.calibration/1`: the rows of `agentfly view RUN --ratings FILE.jsonl` (docs/viewer.md).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentfly.datasets.image_paths import ImageFolder
from agentfly.datasets.public.columns import Adapter
from agentfly.datasets.public.tasks import HubOptions, read_rows
from agentfly.datasets.tables import Row, column_names, is_missing
from agentfly.errors import ConfigError, DatasetError, shortened, unknown_name
from agentfly.files import read_lines
from agentfly.images import ImageSource

logger = logging.getLogger(__name__)

RATINGS_FORMAT = "agentfly.calibration/1"
_OVERALL = "overall"


@dataclass(frozen=True)
class Preference:
    """One or two results of a task, and what a person said of them.

    Attributes:
        id: of the verdict.
        task: id of the task, which several verdicts may share.
        task_type: of the task.
        instruction, source: of the task.
        results: each with an id that is the same wherever the result occurs; one or two.
        preferred: of two: 1 if the first is better, 0 if the second is, 0.5 for a tie.
        score: of one, 0 to 100.
        comparison: pairs of one comparison of several results share it; empty for a pair that stands alone.
        source_handle: content hash of the source where it is known; then the ids of the results are hashes, too.
    """

    id: str
    task: str
    task_type: str
    instruction: str
    source: ImageSource
    results: tuple[tuple[str, ImageSource], ...]
    preferred: float | None = None
    score: float | None = None
    comparison: str = ""
    source_handle: str = ""


def _editreward(row: Row, images: ImageFolder) -> Preference:
    letters = str(row["comparison_type"]).split("vs")
    ranking = str(row["ranking"])
    known = {f"{letters[0]}>{letters[-1]}": 1.0, f"{letters[-1]}>{letters[0]}": 0.0, "A=B": 0.5}
    if len(letters) != 2 or ranking not in known:
        raise DatasetError(f"ranking {shortened(ranking)!r} does not fit {shortened(str(row['comparison_type']))!r}")
    kind, group = str(row["dataset"]), str(row["id"]).partition("_")[0]
    # Rows of 2pair do not belong together, whatever their ids have in common.
    task = f"{kind}/{row['id'] if kind == '2pair' else group}"
    results = tuple(
        (f"{task}/{letter}", images.source(row[column]))
        for letter, column in zip(letters, ("candidate_1", "candidate_2"), strict=True)
    )
    instruction, source = str(row["instruction"]), images.source(row["source_image"])
    comparison = "" if kind == "2pair" else task
    verdict = f"{kind}/{row['id']}"
    return Preference(verdict, task, kind, instruction, source, results, known[ranking], comparison=comparison)


def _editscore(row: Row, images: ImageFolder) -> Preference:
    keys, outputs = list(row["key"]), list(row["output_images"])
    if len(keys) != 2 or len(outputs) != 2:
        raise DatasetError(f"key and output_images must hold two each, not {len(keys)} and {len(outputs)}")
    results = tuple((str(key), images.source(image)) for key, image in zip(keys, outputs, strict=True))
    return Preference(
        id="/".join(map(str, keys)),
        # Both keys of a row share the task; the pair stands for it where the keys do not tell.
        task=str(keys[0]),
        task_type=str(row["task_type"]),
        instruction=str(row["instruction"]),
        source=images.source(row["input_image"]),
        results=results,
        preferred=1.0,
    )


@dataclass(frozen=True)
class _Benchmark:
    adapter: Adapter
    columns: tuple[str, ...]
    read: Callable[[Row, ImageFolder], Preference]


_BENCHMARKS: Mapping[str, _Benchmark] = {
    "editreward-bench": _Benchmark(
        Adapter("TIGER-Lab/EditReward-Bench", ("train",), ("id",), ("source_image",), streaming=True),
        (
            *("id", "dataset", "instruction", "source_image", "candidate_1", "candidate_2"),
            *("comparison_type", "ranking"),
        ),
        _editreward,
    ),
    "editscore-bench": _Benchmark(
        Adapter("EditScore/EditReward-Bench", ("train",), ("key",), ("input_image",), streaming=True),
        ("key", "task_type", "dimension", "instruction", "input_image", "output_images"),
        _editscore,
    ),
}
PREFERENCE_SOURCES: tuple[str, ...] = tuple(_BENCHMARKS)


def load_preferences(source: str | Path, *, root: Path | None = None, limit: int | None = None) -> Iterator[Preference]:
    """Yield the verdicts of a benchmark, or of a file that `agentfly view RUN --ratings FILE.jsonl` wrote.

    Args:
        source: one of `PREFERENCE_SOURCES`, or the path of a `.jsonl` file.
        root: folder with the downloaded files of a benchmark; by default they come from the hub.
        limit: verdicts at most.

    Raises:
        ConfigError: there is no such benchmark or file.
        DatasetError: the data cannot be read, or a row is no verdict; the message names the row.
    """
    found = _rated(Path(source)) if Path(source).suffix == ".jsonl" else _benchmark(str(source), root)
    return itertools.islice(found, limit)


def _benchmark(name: str, root: Path | None) -> Iterator[Preference]:
    if name not in _BENCHMARKS:
        problem = unknown_name("source of pairs", name, _BENCHMARKS)
        raise ConfigError(f"{problem}; or the folder of a run with ratings, or a .jsonl file of them")
    benchmark, images = _BENCHMARKS[name], ImageFolder(root)
    for number, row in enumerate(read_rows(name, benchmark.adapter, "train", root, HubOptions())):
        missing = [column for column in benchmark.columns if is_missing(row.get(column))]
        try:
            if missing:
                raise DatasetError(f"lacks column {', '.join(missing)}; it has {column_names(row)}")
            # The other dimensions are about parts of an edit; a score is about all of it.
            if name == "editscore-bench" and row["dimension"] != _OVERALL:
                continue
            yield benchmark.read(row, images)
        except (DatasetError, TypeError) as fault:
            raise DatasetError(f"{name} row {number}: {fault}") from fault


def _rated(path: Path) -> Iterator[Preference]:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}: write it with `agentfly view RUN --ratings {path.name}`")
    gone = 0
    for number, row in read_lines(path):
        try:
            if not isinstance(row, Mapping) or row.get("format") != RATINGS_FORMAT:
                raise DatasetError(f"is no row of {RATINGS_FORMAT}, as agentfly view --ratings writes them")
            # The images of a run that is gone have no paths.
            if row.get("source_path") and all(result.get("path") for result in row["results"]):
                yield _verdict(row, f"{path.name}:{number}")
            else:
                gone += 1
        except (DatasetError, KeyError, TypeError, AttributeError, ValueError) as fault:
            raise DatasetError(f"{path.name} line {number}: {fault}") from fault
    if gone:
        logger.warning("%d verdicts of %s are left out: their images were gone when it was written", gone, path)


def _verdict(row: Mapping[str, Any], identity: str) -> Preference:
    """Return the verdict of a row.

    Its images are named by path, wherever they lie. The content hashes beside the paths keep a foreign file from having
    other images read.
    """
    results = tuple((str(result["image"]), Path(result["path"])) for result in row["results"])
    preferred, score = row.get("human_preference"), row.get("human_score")
    if (preferred is None) == (score is None) or len(results) != (2 if score is None else 1):
        raise DatasetError("has neither two results and a preference nor one result and a score")
    return Preference(
        id=identity,
        task=str(row["task"]),
        task_type=str(row.get("task_type", "")),
        instruction=str(row["instruction"]),
        source=Path(row["source_path"]),
        results=results,
        preferred=None if preferred is None else float(preferred),
        score=None if score is None else float(score),
        source_handle=str(row["source"]),
    )
