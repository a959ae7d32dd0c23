"""Refuse to compare scores that different judges gave.

Runs of one label are comparable where its settings decide the same in both: protocol, prompts, model, temperature and
scheme of the judge. What only concerns its pace, its price and its key may differ. The names of the models that
answered must be the same, too, as far as they are known: a name such as gpt-4o stands for versions that change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from agentfly.errors import ConfigError, shortened
from agentfly.evaluation.run_folder import SETTINGS
from agentfly.evaluation.task_record import TaskRecord

# Of a judge's settings; none of them changes what a reply is worth.
_OF_PACE = frozenset(
    (
        *("api_key_env", "base_url", "timeout", "attempts", "first_wait", "max_wait", "in_flight", "guard"),
        *("requests_per_minute", "input_price", "output_price", "prompts_from", "root"),
    )
)


def check_same_judge(
    label: str, folders: tuple[Path, Path], runs: tuple[Iterable[TaskRecord], Iterable[TaskRecord]]
) -> list[str]:
    """Return the days on which the judge of a label answered, if it is the same in both runs; empty for no judge.

    A run that does not tell them, such as one of an older version, stands there as "an unknown day (FOLDER)".

    Args:
        label: of the evaluator.
        folders: of the runs.
        runs: their records.

    Raises:
        ConfigError: the judge, its version or the protocol differs; the message names both.
    """
    usages = [[record.judges[label] for record in run if label in record.judges] for run in runs]
    specs = [_spec(folder, label) for folder in folders]
    if not any(usages) and not all(spec is not None and "protocol" in spec for spec in specs):
        return []
    hint = "score one of them again by the other's: agentfly replay RUN --evaluator … or --protocol … --judge …"
    first, second = (None if spec is None else _deciding(spec) for spec in specs)
    if first is not None and second is not None and first != second:
        names = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
        ways = [shortened(", ".join(f"{n}={spec.get(n)}" for n in names), 200) for spec in (first, second)]
        raise ConfigError(
            f"{label} is not the same in both runs ({ways[0]} in {folders[0]}; {ways[1]} in {folders[1]}): {hint}"
        )
    versions = [sorted({model for usage in found for model in usage.models}) for found in usages]
    if all(versions) and versions[0] != versions[1]:
        ways = [shortened(", ".join(models), 200) for models in versions]
        raise ConfigError(f"{label} was answered by {ways[0]} in {folders[0]} and by {ways[1]} in {folders[1]}: {hint}")
    days = sorted({date for found in usages for usage in found for date in usage.dates})
    for folder, found in zip(folders, usages, strict=True):
        if any(usage.requests and not usage.dates for usage in found):
            days.append(f"an unknown day ({folder})")
    return days


def _spec(folder: Path, label: str) -> Mapping[str, object] | None:
    """Return the spec of an evaluator from the settings of a run; None where they are not known."""
    try:
        known = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        spec = known["evaluator"][label]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return spec if isinstance(spec, Mapping) else None


def _deciding(spec: Mapping[str, object]) -> dict[str, object]:
    """Return what decides, with nested mappings flattened to names such as `judge.model`."""
    found: dict[str, object] = {}
    for name, value in spec.items():
        if name in _OF_PACE or value is None:
            continue
        inner = _deciding(value) if isinstance(value, Mapping) else None
        found |= {name: value} if inner is None else {f"{name}.{key}": deep for key, deep in inner.items()}
    return found
