"""`agentfly export RUN --to-hub`: write the trajectories of a run as a folder for `datasets.load_dataset` and the hub.

The folder has parquet shards in `data/`, a card, and a file by which a later export knows that it may replace it. The
file of trajectories is read twice, a line at a time; images are read, checked and encoded for one row at a time.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from agentfly.agents.trajectory_file import FILE_NAME, image_folder, read_trajectories
from agentfly.errors import AgentFlyError, ConfigError, ImageError, first_line, require
from agentfly.evaluation.hub.card import Card, Figures
from agentfly.evaluation.hub.columns import row_of, trajectory_features
from agentfly.evaluation.hub.secrets import SecretFilter, environment_secrets, setting_secrets
from agentfly.evaluation.hub.shards import Shards
from agentfly.evaluation.run_folder import SETTINGS
from agentfly.files import check_replaceable, read_yaml, write_text
from agentfly.images import ImageStore

MARKER = "agentfly_export.json"
_CONFIG = "config.yaml"
_QUICKSTART = Path("evaluation", "trained", "greedy.jsonl")
_MISSING = "its images are missing or damaged"
_SHARD_BYTES = 500 * 1000 * 1000
_STORE_BYTES = 64 * 1024 * 1024
_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "dev": "validation", "test": "test"}


@dataclass(frozen=True)
class HubExport:
    """Source and options of an export of trajectories.

    Attributes:
        source: folder of a run of `agentfly eval`, `train`, `try` or the quickstart, a log folder, or its file of
            trajectories.
        out: the new folder; an earlier export there is replaced.
        limit: chains at most.
        min_score: score of a chain at least (0 to 100); one without a score is left out.
        tokens: keep ids, mask and log-probs where they were recorded.
        shard_bytes: size of the rows of one parquet file.
    """

    source: Path
    out: Path
    limit: int | None = None
    min_score: float | None = None
    tokens: bool = True
    shard_bytes: int = _SHARD_BYTES


@dataclass(frozen=True)
class HubResult:
    """The written folder.

    Attributes:
        folder: its path.
        rows: by split.
        left_out: chains by the reason for which they are not in it.
        without_tokens: chains whose tokens were left out because a text of theirs held a key.
    """

    folder: Path
    rows: dict[str, int]
    left_out: dict[str, int]
    without_tokens: int


@dataclass(frozen=True)
class _Run:
    path: Path
    model: str
    data: str
    split: str
    secrets: SecretFilter


def export_trajectories(request: HubExport) -> HubResult:
    """Write the folder.

    Raises:
        ConfigError: there are no trajectories, none of them is kept, or `out` holds something else.
        MissingExtraError: `datasets` is not installed.
    """
    require("datasets", "export --to-hub", "data")
    # Resolved, so that links are followed and "." has a name: the new folder takes the place of the old one.
    run, out = _find_run(request.source), request.out.resolve()
    check_replaceable(out, MARKER, "folder of exported trajectories")
    if out == run.path.parent.resolve() or out in run.path.resolve().parents:
        raise ConfigError(f"--out {request.out} would replace the run itself: give another folder")
    left_out: Counter[str] = Counter()
    kept = _kept_lines(run.path, request, left_out)
    # A name of its own: a folder with a name that can be guessed may be somebody's, even the run.
    half = out.with_name(f".{out.name[:100]}.{uuid4().hex}.export")
    try:
        figures = _write(run, kept, replace(request, out=out), half, left_out)
        shutil.rmtree(out, ignore_errors=True)
        half.rename(out)
    except AgentFlyError:  # some of which are ValueErrors too
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as fault:  # Arrow's are among them
        raise ConfigError(
            f"{str(run.path)!r} holds a value that no trajectory has ({type(fault).__name__}: {first_line(fault)}): "
            "write the run again, or remove the line"
        ) from fault
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return HubResult(request.out, dict(figures.splits), dict(left_out), figures.without_tokens if request.tokens else 0)


def _write(run: _Run, kept: set[int], request: HubExport, folder: Path, left_out: Counter[str]) -> Figures:
    features, figures = trajectory_features(tokens=request.tokens), Figures()
    # Without a folder of images there is a text-only agent, or a log that kept none.
    store = ImageStore(image_folder(run.path), max_bytes=_STORE_BYTES)
    with Shards(folder / "data", features, request.shard_bytes) as shards:
        for line in (line for number, line in read_trajectories(run.path) if number in kept):
            try:
                row = row_of(line, store, run.model, run.secrets, tokens=request.tokens)
            except ImageError:
                left_out[_MISSING] += 1
                continue
            split = run.split if line.validate is None else "validation" if line.validate else "train"
            shards.add(split, row)
            figures.add(line, split, has_tokens=row.get("tokens") is not None)
    left_out -= Counter()  # drops the reasons of no chain
    if not figures.chains:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in left_out.items())
        keeps = "; `agentfly train` keeps images unless agentfly.images=false, up to agentfly.images.max_gb"
        advice = keeps if left_out[_MISSING] else ""
        raise ConfigError(f"no chain of {str(run.path)!r} is left to export ({reasons or 'it has none'}){advice}")
    card = Card(request.out.name, run.model, run.data, request.tokens, run.secrets)
    write_text(folder / "README.md", card.text(figures, dict(left_out), features, shards.sizes))
    facts = {"format": "agentfly.export/1", "rows": dict(figures.splits), "left_out": dict(left_out)}
    write_text(folder / MARKER, json.dumps(facts, indent=2) + "\n")
    return figures


def _find_run(source: Path) -> _Run:
    """Return the file of trajectories of a run, and what its settings say.

    Raises:
        ConfigError: there is no such file.
    """
    # Of a quickstart, the evaluation of its policy is what others want to see.
    places = (source / FILE_NAME, source / _QUICKSTART) if source.is_dir() else (source,)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ConfigError(
            f"there is no {FILE_NAME} in {str(source)!r}: name a run of eval, train, try or quickstart; "
            "training writes it unless agentfly.trajectories=false"
        )
    settings = _settings(path.parent)
    node = settings.get("agentfly") if isinstance(settings.get("agentfly"), dict) else settings
    assert isinstance(node, dict)
    data = node.get("data")
    data = data.get("train") if isinstance(data, dict) else data
    secrets = SecretFilter((*environment_secrets(), *setting_secrets(settings)))
    split = _SPLITS.get(str(settings.get("split")), "train")
    return _Run(path, secrets.text(_public_name(node.get("model"))), _public_name(data), split, secrets)


def _settings(folder: Path) -> dict[str, Any]:
    """Return the settings of an evaluation, or the configuration of a training; empty where there are none."""
    for name in (SETTINGS, _CONFIG):
        # YAML reads JSON too.
        if (folder / name).is_file() and isinstance(found := read_yaml(folder / name, "settings of the run"), dict):
            return found
    return {}


def _public_name(value: object) -> str:
    """Return a name of the hub as it is, and of a path its last part: the rest means nothing on another machine."""
    if not isinstance(value, str) or not value:
        return ""
    local = Path(value).is_absolute() or value.startswith((".", "~")) or value.count("/") > 1 or Path(value).exists()
    return Path(value).name if local and "://" not in value else value


def _kept_lines(path: Path, request: HubExport, left_out: Counter[str]) -> set[int]:
    """Return the numbers of the lines to export: the last of each chain, those with the score, up to the limit."""
    last: dict[str, tuple[int, bool]] = {}
    for number, line in read_trajectories(path):
        score, least = line.trajectory.score, request.min_score
        good = least is None or (score is not None and score >= least)
        # As for `agentfly replay`: a resumed evaluation writes a task again.
        key = line.task.id if line.task is not None and line.whole_task else line.trajectory.id
        if key in last:
            left_out["written again later"] += 1
        last[key] = (number, good)
    numbers = sorted(number for number, good in last.values() if good)
    kept = numbers[: request.limit]
    left_out["below the minimum score"] = len(last) - len(numbers)
    left_out["beyond the limit"] = len(numbers) - len(kept)
    return set(kept)
