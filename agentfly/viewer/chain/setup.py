"""The settings of a run that a chain's page needs, read from its `config.yaml` or `settings.json`.

A run folder may be anybody's. Its settings choose numbers and files that are read as data; they never choose code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from agentfly.viewer.runs.folder import RunFolder

_MOST_BYTES = 8 * 2**20
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a whole configuration takes the other one a second


@dataclass(frozen=True)
class RunSetup:
    """Settings of a run; those that are not known are None.

    Attributes:
        trained: the run has the settings of a training.
        estimator: `algorithm.adv_estimator`.
        by_std: `algorithm.norm_adv_by_std_in_grpo`.
        gamma: `algorithm.gamma`.
        kl_in_reward: `algorithm.use_kl_in_reward`.
        credit: `agentfly.credit`.
        policies: folders in which the policy may lie on this machine.
        engines: the engines behind the tools, as written.
        nodes: image servers took part.
    """

    trained: bool = False
    estimator: str | None = None
    by_std: bool = True
    gamma: float = 1.0
    kl_in_reward: bool = False
    credit: str | None = None
    policies: tuple[Path, ...] = ()
    engines: str | Mapping[str, Any] | None = None
    nodes: bool = False


_NONE: Mapping[str, Any] = {}


def read_setup(run: RunFolder) -> RunSetup:
    """Return the settings of a run; defaults where there are none, or they cannot be read."""
    folder, training = run.folder, run.training
    exported = (folder / "policy", folder / "warm_start") if run.kind == "quickstart" else ()
    if training is not None:
        return _trained(_read(training / "config.yaml"), exported)
    found = _read(folder / "settings.json") or _read(folder / "trial.json")
    return RunSetup(
        policies=(*exported, *_folders(found.get("model"), folder)),
        engines=_engines(found.get("engine")),
        nodes=bool(found.get("client_nodes") or found.get("nodes")),
    )


def _trained(config: Mapping[str, Any], exported: tuple[Path, ...]) -> RunSetup:
    ours, algorithm = _node(config, "agentfly"), _node(config, "algorithm")
    estimator, credit, gamma = algorithm.get("adv_estimator"), ours.get("credit"), algorithm.get("gamma")
    return RunSetup(
        trained=True,
        estimator=estimator if isinstance(estimator, str) else None,
        by_std=algorithm.get("norm_adv_by_std_in_grpo") is not False,
        gamma=float(gamma) if isinstance(gamma, (int, float)) else 1.0,
        kl_in_reward=algorithm.get("use_kl_in_reward") is True,
        credit=credit if isinstance(credit, str) else None,
        policies=(*_folders(ours.get("model"), None), *exported),
        engines=_engines(ours.get("engines")),
        nodes=bool(ours.get("client_nodes")),
    )


def _folders(model: object, base: Path | None) -> tuple[Path, ...]:
    """Return the folder of a model that is named by an absolute path, or by one from the working folder."""
    if not isinstance(model, str) or not model or "\0" in model:
        return ()
    return (Path(model).expanduser(),)


def _engines(value: object) -> str | Mapping[str, Any] | None:
    return value if isinstance(value, (str, Mapping)) else None


def _node(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else _NONE


def _read(path: Path) -> Mapping[str, Any]:
    try:
        status = path.stat()
        return _parsed(path, status.st_mtime_ns, status.st_size) if status.st_size <= _MOST_BYTES else _NONE
    except OSError:
        return _NONE


@lru_cache(maxsize=16)
def _parsed(path: Path, changed: int, size: int) -> Mapping[str, Any]:
    try:
        if not path.is_file():
            return _NONE
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return _NONE
    return found if isinstance(found, Mapping) else _NONE
