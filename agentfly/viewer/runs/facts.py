"""What a run was made with: its settings without secrets, package versions, commit and machine."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

from agentfly.errors import AgentFlyError, first_line
from agentfly.files import read_yaml
from agentfly.provenance import FILE_NAME as ENVIRONMENT
from agentfly.provenance import read_starts
from agentfly.redaction import public_settings
from agentfly.viewer.runs.folder import RunFolder

_MOST_BYTES = 2 * 2**20  # of a file of settings
_MOST_SETTINGS = 5000
_LONGEST = 300  # characters of a value
_DEEPEST = 30


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    Attributes:
        values: by dotted name, as texts.
        files: they come from.
        problem: why a file could not be read; "" for none.
    """

    values: Mapping[str, str]
    files: tuple[str, ...] = ()
    problem: str = ""

    def get(self, *names: str) -> str:
        """Return the first setting of these names that is there, "" for none."""
        return next((self.values[name] for name in names if self.values.get(name, "") not in ("", "null")), "")


@dataclass(frozen=True)
class Origin:
    """The code and the machine of a run.

    Attributes:
        versions: of packages.
        facts: name and value: commit, Python, processor, accelerators.
        starts: times that the run was started with something else.
    """

    versions: Mapping[str, str]
    facts: Mapping[str, str]
    starts: int = 0


@dataclass(frozen=True)
class Difference:
    """A setting that two runs do not share; "" where a run has none of this name."""

    name: str
    mine: str
    other: str


def settings_of(run: RunFolder) -> Settings:
    """Return the settings of a run. Keys and the secrets of addresses are asterisks."""
    places = {
        "training": ((run.folder / "config.yaml", ""),),
        "quickstart": ((run.folder / "quickstart.json", "quickstart."), (run.folder / "training" / "config.yaml", "")),
        "evaluation": ((run.folder / "settings.json", ""),),
        "trial": ((run.folder / "trial.json", "trial."), (run.folder / "settings.json", "")),
    }.get(run.kind, ())
    values: dict[str, str] = {}
    files, problems = [], []
    for path, prefix in places:
        try:
            status = path.stat()
        except OSError:
            continue
        if not stat.S_ISREG(status.st_mode):  # a pipe would never end
            continue
        found, problem = _read(path, status.st_mtime_ns, status.st_size)
        values |= {f"{prefix}{name}": value for name, value in found.items()}
        files.append(path.name)
        problems += [problem] if problem else []
    return Settings(values, tuple(files), "; ".join(problems))


def origin_of(run: RunFolder, summary: Mapping[str, Any]) -> Origin:
    """Return what is known about code and machine of a run.

    Args:
        run: the run.
        summary: content of its `summary.json`, which has the versions of a quickstart.
    """
    folders = [run.folder, *([run.training] if run.training else [])]
    starts = next((found for folder in folders if (found := read_starts(folder / ENVIRONMENT))), [])
    newest = starts[-1] if starts else {}
    versions = newest.get("versions") or summary.get("versions")
    machine = newest.get("machine")
    facts: dict[str, str] = {}
    for name, label in (("commit", "commit of agentfly"), ("working_folder_commit", "commit of the working folder")):
        if isinstance(commit := newest.get(name), Mapping):
            changed = ", with changes" if commit.get("changed") else ""
            facts[label] = f"{str(commit.get('commit'))[:12]}{changed}"
    if len(set(facts.values())) == 1:
        facts = {"commit": next(iter(facts.values()))}
    facts |= {"Python": str(newest["python"])} if "python" in newest else {}
    if isinstance(machine, Mapping):
        facts |= {str(name): _text(value) for name, value in machine.items() if value}
    facts |= {"started": str(newest["began"])} if "began" in newest else {}
    kept = {str(k)[:80]: str(v)[:80] for k, v in versions.items()} if isinstance(versions, Mapping) else {}
    return Origin(kept, {name: value[:_LONGEST] for name, value in facts.items()}, len(starts))


def differences(mine: Settings, other: Settings, ours: Origin, theirs: Origin) -> list[Difference]:
    """Return the settings, versions and commits that differ, those that both runs have first.

    Args:
        mine, other: settings of both runs.
        ours, theirs: code and machine of both.
    """
    pairs = (
        ("", mine.values, other.values),
        ("version of ", ours.versions, theirs.versions),
        ("", _lasting(ours.facts), _lasting(theirs.facts)),
    )
    found = [
        Difference(f"{prefix}{name}", a.get(name, ""), b.get(name, ""))
        for prefix, a, b in pairs
        for name in dict.fromkeys((*a, *b))
        if a.get(name, "") != b.get(name, "")
    ]
    # Settings that one run alone has come last: runs of two kinds have little in common.
    return sorted(found, key=lambda difference: not (difference.mine and difference.other))


def _lasting(facts: Mapping[str, str]) -> dict[str, str]:
    """Return facts without the time of the start, which always differs."""
    return {name: value for name, value in facts.items() if name != "started"}


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty where there is none, it is being written, or it is enormous."""
    try:
        if not path.is_file() or path.stat().st_size > 16 * 2**20:  # a pipe would never end
            return {}
        found = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_number(value: object) -> TypeGuard[float]:
    """Return True for a finite number, as JSON has them; a whole number may be beyond all floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


@lru_cache(maxsize=64)
def _read(path: Path, changed: int, size: int) -> tuple[Mapping[str, str], str]:
    """Return the settings in a file as it was changed last, and the problem of one that cannot be read."""
    if size > _MOST_BYTES:
        return {}, f"{path.name} is larger than {_MOST_BYTES // 2**20} MB and is not shown"
    try:
        found = read_yaml(path, "file of settings") if path.suffix == ".yaml" else json.loads(path.read_bytes())
        if not isinstance(found, Mapping):
            return {}, f"{path.name} holds no settings"
        left = [_MOST_SETTINGS]
        # A number of thousands of digits, as hexadecimal ones can be, has no text.
        flat = dict(_flat(public_settings(bounded(found, left)), ""))
    except (OSError, ValueError, RecursionError, AgentFlyError) as fault:
        return {}, f"{path.name} cannot be read: {first_line(fault)}"
    return flat, f"{path.name} has more than {_MOST_SETTINGS} settings: the first are shown" if left[0] <= 0 else ""


def bounded(value: Any, left: list[int], depth: int = 0) -> Any:
    """Return a copy of at most `left[0]` values, which counts down: a few lines of YAML can stand for millions.

    Args:
        value: parsed YAML or JSON.
        left: one number.
        depth: of the value in the whole.
    """
    if isinstance(value, Mapping):
        return {str(k)[:200]: bounded(v, left, depth + 1) for k, v in value.items() if _counts(left, depth)}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [bounded(item, left, depth + 1) for item in value if _counts(left, depth)]
    return value


def _counts(left: list[int], depth: int) -> bool:
    left[0] -= 1
    return left[0] > 0 and depth < _DEEPEST


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(item, str | int | float) for item in value):
        text = ", ".join(map(str, value))
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text) - _LONGEST} more)"
