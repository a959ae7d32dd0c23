"""Write files so that they survive a crash: files are complete or absent, and a line is on disk before it counts."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentfly.errors import ConfigError

logger = logging.getLogger(__name__)


class LineFile:
    """A file of JSON lines that one process at a time appends to.

    A line is written in one append and synced. A process that is killed at any moment tears at most the last line.

    Args:
        path: made where it is missing; its folder is there.
        owner: what the file belongs to, for messages.

    Raises:
        ConfigError: another process writes to it.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _lock(self._file, owner)
        except ConfigError:
            self.close()
            raise

    def mend(self) -> None:
        """Cut off a torn last line."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            logger.warning("%s: the last line was torn; what it was about is done again", self.path)
            os.ftruncate(self._file, whole)

    def append(self, line: str) -> None:
        """Write a line; when this returns, it is on disk. After `close` it does nothing.

        Raises:
            OSError: the disk is full, or broken; nothing of the line is left, so that others may follow.
        """
        # A sampled text can hold half a surrogate pair, which UTF-8 cannot carry.
        data = f"{line}\n".encode("utf-8", "replace")
        with self._lock:
            if self._file < 0:
                return
            before = os.fstat(self._file).st_size
            try:
                with named(self.path):
                    while data:
                        data = data[os.write(self._file, data) :]
                    os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, before)
                raise

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


def _lock(file: int, owner: str) -> None:
    """Take a file's lock, which goes with the process, however that ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as fault:
        raise ConfigError(f"another process writes to {owner}: wait for it, or use another") from fault
    except OSError as fault:
        logger.warning(
            "this file system has no locks (%s): take care that one process alone writes to %s", fault, owner
        )


@contextmanager
def held(path: Path, owner: str) -> Iterator[None]:
    """Hold the lock of a file, which is made where it is missing.

    Args:
        path: its folder is there.
        owner: what the lock is for, for messages.

    Raises:
        ConfigError: another process holds it.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(file, owner)
        yield
    finally:
        os.close(file)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Have faults of the system name the file that they are about: a full disk names none by itself."""
    try:
        yield
    except OSError as fault:
        if fault.filename is None:
            fault.filename = str(path)
        raise


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside a file to write to; it becomes the file at the end, or goes where that fails."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with named(path):
            yield partial
            partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Numbers and parsed values of the lines of a JSONL file; a last line without its end is left out.

    Raises:
        ConfigError: a line is not JSON.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield number, json.loads(line)
            except ValueError as fault:
                raise ConfigError(f"{path}, line {number} is damaged ({fault}): remove the line") from fault


def read_yaml(path: Path, what: str) -> Any:
    """Return what a YAML file holds.

    Args:
        path: the file.
        what: what it is, for messages: "evaluator file".

    Raises:
        ConfigError: it cannot be read, or is not valid YAML; one line that names the place.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as fault:
        raise ConfigError(f"cannot read the {what} {str(path)!r}: {fault.strerror or fault}") from fault
    except UnicodeDecodeError as fault:
        raise ConfigError(f"the {what} {str(path)!r} is no UTF-8 text: save it as a YAML text file") from fault
    return parse_yaml(text, f"the {what} {str(path)!r}")


def read_mapping(path: Path, what: str, example: str) -> dict[str, Any]:
    """Return the names and values that a YAML file of settings holds.

    Args:
        path: the file.
        what: what it is, for messages: "file of --config".
        example: a line that such a file may have, for messages: "data: stickers".

    Raises:
        ConfigError: it cannot be read, is not valid YAML, or holds something else.
    """
    found = read_yaml(path, what)
    if not isinstance(found, dict):
        raise ConfigError(f"the {what} {str(path)!r} holds no settings: write `name: value` lines, such as {example}")
    if odd := [name for name in found if not isinstance(name, str)]:
        raise ConfigError(f"the {what} {str(path)!r} has the name {odd[0]!r}: names are words, such as {example}")
    return found


def parse_yaml(text: str, where: str) -> Any:
    """Return what a YAML text holds.

    Args:
        text: from a file or an option.
        where: what it is, for messages.

    Raises:
        ConfigError: it is not valid YAML; one line that names the place.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError, LookupError) as fault:
        # What is no YAMLError comes of values that their tag does not fit, such as a number that is none.
        raise ConfigError(f"{where} is not valid YAML: {yaml_reason(fault)}") from fault


def yaml_reason(fault: BaseException) -> str:
    """Return what is wrong with a YAML text, and where, in one line."""
    if isinstance(fault, RecursionError):
        return "it is nested too deeply"
    mark, problem = getattr(fault, "problem_mark", None), getattr(fault, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(fault).split()) or type(fault).__name__
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def check_replaceable(folder: Path, marker: str, kind: str) -> None:
    """What may be replaced by something new: nothing, an empty folder, or one that holds a marker.

    Args:
        folder: that is to be written.
        marker: name of a file that every folder of its kind has.
        kind: what it is, for the message: "policy folder".

    Raises:
        ConfigError: it is something else, which nobody asked to lose.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / marker).is_file() or not any(folder.iterdir()))):
        raise ConfigError(f"{folder} is there and is no {kind}: give another --out, or remove it")


def write_text(path: Path, text: str) -> Path:
    """Write a file so that nobody ever sees half of it; returns its path."""
    with written_whole(path) as partial:
        # A sampled text can hold half a surrogate pair, which UTF-8 cannot carry.
        partial.write_text(text, encoding="utf-8", errors="replace")
    return path
