"""Records of calibrations: a file for each evaluator and its settings, which the dry run of training reads.

The folder is the one that is named, else that of the environment variable `AGENTFLY_CALIBRATION`, else
`agentfly/calibration` in the user's cache (`XDG_CACHE_HOME`, or `~/.cache`). The file's name is the fingerprint of the
evaluator: other settings, other weights in the same folder, or other code of one's own are another evaluator.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from agentfly.errors import ConfigError
from agentfly.files import encodable, write_text
from agentfly.redaction import public_settings

FORMAT = "agentfly.calibration_record/1"
VARIABLE = "AGENTFLY_CALIBRATION"
# Settings that do not change a score: limits, prices, names of variables, and the label in tables.
_NOT_IDENTITY = frozenset(
    (
        *("name", "guard", "timeout", "attempts", "first_wait", "max_wait", "in_flight", "requests_per_minute"),
        *("input_price", "output_price", "api_key_env", "max_connections", "batch_size", "batch_window", "sleep"),
    )
)


@dataclass(frozen=True)
class Record:
    """What a calibration found.

    Attributes:
        fingerprint: of the evaluator.
        evaluator: its settings, without secrets.
        made: time, as ISO 8601.
        version: of agentfly.
        accuracy: share of pairs that are ordered right, with its interval ("mean", "low", "high"); None for none.
        let_through: names of the attacks that the evaluator lets through.
        cautions: reasons not to trust it, a sentence each; those for the attacks included.
        tasks: number of tasks of the built-in worlds.
    """

    fingerprint: str
    evaluator: Mapping[str, Any]
    made: str
    version: str
    accuracy: Mapping[str, float] | None
    let_through: Sequence[str]
    cautions: Sequence[str]
    tasks: int


_RECORD = TypeAdapter(Record)


def record_folder(named: Path | None = None) -> Path:
    """Return the folder of the records; it need not exist.

    Args:
        named: by the user; None for the default.
    """
    if named is not None:
        return named
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "agentfly" / "calibration"


def fingerprint(spec: str | Mapping[str, object]) -> str:
    """Return the fingerprint of an evaluator: a hash of the settings that its scores depend on, and of what they name.

    Args:
        spec: as `agentfly.evaluators.make_evaluator` takes it.
    """
    text = json.dumps(_identity(spec), sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _identity(spec: object) -> object:
    if isinstance(spec, str):
        spec = {"evaluator": spec}
    if not isinstance(spec, Mapping):
        return repr(spec)
    kept = {str(name): value for name, value in spec.items() if name not in _NOT_IDENTITY}
    parts = kept.get("parts")
    if isinstance(parts, Mapping):
        kept["parts"] = {str(name): _identity(part) for name, part in parts.items()}
    named = {"code": _code(kept.get("evaluator"))}
    for name in ("model", "adapter", "base"):
        named[name] = _files(kept.get(name))
    return {**public_settings(kept), **{f"{name} files": found for name, found in named.items() if found}}


def _code(name: object) -> str:
    """Return a hash of the file of an evaluator that is named as module:name; "" for another, or one without a file."""
    module = name.partition(":")[0] if isinstance(name, str) and ":" in name else ""
    try:
        path = getattr(importlib.import_module(module), "__file__", None) if module else None
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path else ""
    except (ImportError, OSError):
        return ""


def _files(name: object) -> str:
    """Return a hash of names, sizes and times of the files of a checkpoint's folder; "" for what is no folder."""
    folder = Path(name).expanduser() if isinstance(name, str) and name else None
    if folder is None or not folder.is_dir():
        return ""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    entries = [(str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(entries).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def write_record(record: Record, folder: Path) -> Path:
    """Write a record and return its path; an earlier one of the same evaluator is replaced.

    Args:
        record: of one evaluator.
        folder: is made if it does not exist.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, **_RECORD.dump_python(record, mode="json")}
    return write_text(folder / f"{record.fingerprint}.json", json.dumps(encodable(content), indent=2) + "\n")


def read_record(spec: str | Mapping[str, object], folder: Path) -> Record | None:
    """Return the record of an evaluator; None where there is none.

    Args:
        spec: of the evaluator.
        folder: of the records.

    Raises:
        ConfigError: there is one that cannot be read; the message names the file.
    """
    path = folder / f"{fingerprint(spec)}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f"it is no {FORMAT}")
        return _RECORD.validate_python(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError, RecursionError) as fault:
        raise ConfigError(
            f"the record of a calibration in {path} cannot be read ({str(fault).splitlines()[0]}): run `agentfly "
            "calibrate` again, or remove the file"
        ) from fault
