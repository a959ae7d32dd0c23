"""Files that survive a crash: a file is complete or absent, and a line is on disk before it counts."""

from __future__ import annotations

import codecs
import errno
import fcntl
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agentfly.errors import ConfigError

logger = logging.getLogger(__name__)


class LineFile:
    """A file of JSON lines that one process at a time appends to.

    A line is written in one append and synced. A process that is killed at any moment leaves at most the last line
    incomplete.

    Args:
        path: made where it is missing, in a folder that exists.
        owner: the run or folder that the file belongs to, for messages.

    Raises:
        ConfigError: another process writes to it.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        while True:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                _lock(self._file, owner)
            except ConfigError:
                self.close()
                raise
            # Its last owner may have discarded it in between: lines in a file without a name would be lost.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file), path.stat()):
                    return
            self.close()

    def repair(self) -> None:
        """Cut off an incomplete last line."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            logger.warning("%s: the last line was torn; what it was about is done again", self.path)
            os.ftruncate(self._file, whole)

    def append(self, line: str) -> None:
        """Write a line and sync it to disk. After `close` this does nothing.

        Raises:
            OSError: the disk is full or broken; nothing of the line is left, so that others may follow.
        """
        # A sampled text can hold half a surrogate pair, which UTF-8 cannot carry.
        data = f"{line}\n".encode("utf-8", "replace")
        with self._lock:
            if self._file < 0:
                return
            with named(self.path):
                _append(self._file, data, sync=True)

    def clear(self, aside: Path) -> None:
        """Move all lines to the end of another file."""
        with aside.open("ab") as other:
            other.write(self.path.read_bytes())
        os.ftruncate(self._file, 0)

    def discard(self) -> None:
        """Remove the file if it has no line. It stays locked until `close`."""
        if self._file >= 0 and not os.fstat(self._file).st_size:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file and release its lock. Safe to call twice."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


def append_shared(path: Path, line: str) -> None:
    """Append a line to a file that several processes append to at once. It is made where it is missing.

    Raises:
        OSError: the disk is full or broken; nothing of the line is left, so that others may follow.
    """
    data = f"{line}\n".encode("utf-8", "replace")
    with named(path):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # Held for this line only, so that a line cut short is removed before another one follows it.
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            _append(file, data, sync=False)
        finally:
            os.close(file)


def change_shared(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a small file that several processes change in turn. It is made where it is missing.

    A process that is killed in the middle may leave it damaged: `change` has to bear any content.

    Args:
        path: in a folder that exists.
        change: gets the content, and returns the new one. No other process changes the file meanwhile.

    Raises:
        OSError: the disk is full or broken.
    """
    with named(path):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            before = os.pread(file, os.fstat(file).st_size, 0)
            after = change(before)
            if after != before:
                os.pwrite(file, after, 0)
                os.ftruncate(file, len(after))
        finally:
            os.close(file)


def _append(file: int, data: bytes, *, sync: bool) -> None:
    """Append to an open file all of the data or nothing."""
    before, written = os.fstat(file).st_size, 0
    try:
        while written < len(data):
            written += os.write(file, data[written:])
        if sync:
            os.fsync(file)
    except OSError:
        # Without locks another process may have written behind this.
        if os.fstat(file).st_size == before + written:
            os.ftruncate(file, before)
        raise


def _lock(file: int, owner: str) -> None:
    """Take the lock of an open file; the system releases it when the process ends."""
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
        path: in a folder that exists.
        owner: the run or folder that the lock protects, for messages.

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
    """Add the name of a file to `OSError`s that have none, such as that of a full disk."""
    try:
        yield
    except OSError as fault:
        if fault.filename is None:
            fault.filename = str(path)
        raise


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path beside a file to write to; at the end it replaces the file, and after an error it is removed."""
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with named(path):
            yield partial
            partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync_to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk, so that it survives a power cut.

    Raises:
        OSError: the disk is full or broken.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        with named(path):
            os.fsync(file)
    except OSError as fault:
        # Some network disks know no sync of folders.
        if fault.errno != errno.EINVAL:
            raise
    finally:
        os.close(file)


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield numbers and parsed values of the lines of a JSONL file; an incomplete last line is left out.

    Raises:
        ConfigError: a line is not JSON.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as fault:
                raise ConfigError(f"{path}, line {number} is damaged ({fault}): remove the line") from fault


# The marks of UTF-32 come first: that of UTF-16 is the beginning of one of them.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def text_encoding(path: Path) -> str:
    """Return the encoding of a text file: that of its byte-order mark, UTF-16 if it looks so, or else UTF-8.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(4)
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    # Texts and JSON begin with characters of ASCII, and hold no NUL.
    by_nul = {(False, True): "utf-16-le", (True, False): "utf-16-be"}
    return by_nul.get((start[:1] == b"\0", start[1:2] == b"\0"), "utf-8")


def read_text(path: Path) -> str:
    """Return the content of a text file in UTF-8, or in UTF-16 or UTF-32 with a byte-order mark.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is in another encoding; see `undecodable`.
    """
    return path.read_text(encoding=text_encoding(path))


def undecodable(fault: UnicodeDecodeError) -> str:
    """Return the reason why a text could not be decoded, and the remedy; it goes on after the name of the text."""
    byte = f"byte 0x{fault.object[fault.start]:02x} at place {fault.start}"
    return f"is no {fault.encoding.upper()} text ({byte}): save it as UTF-8"


def read_yaml(path: Path, what: str) -> Any:
    """Return the content of a YAML file.

    Args:
        path: the file.
        what: kind of the file, for messages: "evaluator file".

    Raises:
        ConfigError: it cannot be read, or is not valid YAML; one line that names the place.
    """
    try:
        text = read_text(path)
    except OSError as fault:
        raise ConfigError(f"cannot read the {what} {str(path)!r}: {fault.strerror or fault}") from fault
    except UnicodeDecodeError as fault:
        raise ConfigError(f"the {what} {str(path)!r} is no UTF-8 text: save it as a YAML text file") from fault
    return parse_yaml(text, f"the {what} {str(path)!r}")


def read_mapping(path: Path, what: str, example: str) -> dict[str, Any]:
    """Return the names and values of a YAML file of settings.

    Args:
        path: the file.
        what: kind of the file, for messages: "file of --config".
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
    """Return the content of a YAML text.

    Args:
        text: from a file or an option.
        where: origin of the text, for messages.

    Raises:
        ConfigError: it is not valid YAML; one line that names the place.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError, LookupError) as fault:
        # Other errors than YAMLError come from values that do not fit their tag, such as `!!int x`.
        raise ConfigError(f"{where} is not valid YAML: {yaml_reason(fault)}") from fault


def yaml_reason(fault: BaseException) -> str:
    """Return the problem of a YAML text and its place, in one line."""
    if isinstance(fault, RecursionError):
        return "it is nested too deeply"
    mark, problem = getattr(fault, "problem_mark", None), getattr(fault, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(fault).split()) or type(fault).__name__
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def check_named(path: object) -> object:
    """Return a path to write to as it is given.

    Raises:
        ValueError: it is an empty text, which would stand for the working folder.
    """
    if isinstance(path, str) and not path.strip():
        raise ValueError("an empty text names no file or folder: give its path")
    return path


def check_replaceable(folder: Path, marker: str, kind: str) -> None:
    """Raise `ConfigError` unless a folder is absent, empty, or holds a marker, so that it may be replaced.

    Args:
        folder: the folder to write.
        marker: name of a file that every folder of its kind has.
        kind: kind of the folder, for messages: "policy folder".

    Raises:
        ConfigError: the folder holds something else, which must not be lost.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / marker).is_file() or not any(folder.iterdir()))):
        raise ConfigError(f"{folder} is there and is no {kind}: give another --out, or remove it")


def encodable(value: Any) -> Any:
    """Return a JSON value whose texts UTF-8 can carry: half of a surrogate pair, as models sample it, becomes "?"."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {encodable(name): encodable(item) for name, item in value.items()}
    return [encodable(item) for item in value] if isinstance(value, list) else value


def write_text(path: Path, text: str) -> Path:
    """Write a file, which appears whole or not at all, and return its path."""
    with written_whole(path) as partial:
        # A sampled text can hold half a surrogate pair, which UTF-8 cannot carry.
        partial.write_text(text, encoding="utf-8", errors="replace")
    return path
