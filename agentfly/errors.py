"""One hierarchy of errors; every message names the problem and the remedy.

`ToolError` is the only one that reaches the model: the rollout turns it into an observation, except for `ToolOutage`,
which ends the chain. Every other error is attributed once, at the boundary where it is caught (a chain, a request, a
command), and never ends a batch.
"""

from __future__ import annotations

import difflib
import errno
import importlib.util
import re
from collections.abc import Iterable, Mapping


class AgentFlyError(Exception):
    """Base of all errors that agentfly raises on purpose."""


class ConfigError(AgentFlyError, ValueError):
    """An argument or a setting is wrong; the message names the valid choice."""


class NoGpuError(ConfigError):
    """A GPU is asked for, and there is none."""


class ImageError(AgentFlyError, ValueError):
    """An image cannot be loaded, or is refused for safety."""


class DatasetError(AgentFlyError, ValueError):
    """A data set, or a row of one, is not usable."""


class TemplateError(AgentFlyError, ValueError):
    """A chat template is unknown, or does not keep the contract that token-exact rollouts need."""


class ToolError(AgentFlyError):
    """A tool could not do its work. The message is for the model: it names the next thing to try."""


class EngineUnavailable(ToolError):
    """The engine behind a tool cannot do this at all, e.g. "needs a model backend: ..."."""


class ToolOutage(ToolError):
    """The engine behind a tool is out of order, such as a pool of image servers of which none answers.

    Any other call would have failed, too, so the chain ends as failed and is not scored.
    """


class BackendError(AgentFlyError):
    """An LLM backend failed to generate.

    Attributes:
        retryable: True if the same request may succeed later (rate limit, timeout, server fault).
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class EvaluatorError(AgentFlyError):
    """A sample could not be scored."""


class TrainingError(AgentFlyError):
    """Training could not start, stalled, or ended badly; the message names the cause and the log."""


class MissingExtraError(AgentFlyError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the optional packages of extra [{extra}]: pip install -e '.[{extra}]'")


def require(package: str, feature: str, extra: str) -> None:
    """Raise `MissingExtraError` unless an optional package is installed.

    Args:
        package: name for imports.
        feature: the feature that needs it, for the message.
        extra: the extra that installs it.

    Raises:
        MissingExtraError: `package` is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(feature, extra)


# A path in a message, from where it begins to the first character that ends it.
_LONG_PATH = re.compile(r"(?<![^\s'\"(=])(?:~|\.{1,2})?/[^\s'\",;()]{80,}")
_PATH_LENGTH = 80


def short_path(path: str) -> str:
    """Return a path cut to a readable length; its end, which names the file, stays."""
    return path if len(path) <= _PATH_LENGTH else f"...{path[3 - _PATH_LENGTH :]}"


def short_paths(text: str) -> str:
    """Return a message in which long paths are cut as `short_path` does."""
    return _LONG_PATH.sub(lambda found: short_path(found[0]), text)


def first_line(fault: BaseException) -> str:
    """Return the first line of an error's message, cut to a readable length; paths keep their end."""
    return shortened(short_paths((str(fault).strip() or type(fault).__name__).splitlines()[0]), 200)


def shortened(text: str, most: int = 80) -> str:
    """Return what somebody else wrote, for a message, cut to a number of characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


# C0, DEL and C1; what is unseen, or turns the direction of writing; halves of surrogate pairs; tags. The joiners U+200C
# and U+200D belong to scripts and emoji.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """Return a text without control characters, with which a model or a server could steer a terminal.

    Line feeds and tabs stay. Print the result as `rich.text.Text`: in a `str` rich reads markup and emoji names.
    """
    return text if text.isprintable() else _CONTROLS.sub("\ufffd", text.replace("\r\n", "\n"))


def printable_json(text: str) -> str:
    """Return JSON in which such characters are escaped, so that programs read the same values."""

    def escaped(found: re.Match[str]) -> str:
        code = ord(found[0])
        # JSON escapes characters beyond U+FFFF as two halves.
        halves = (code,) if code <= 0xFFFF else (0xD7C0 + (code >> 10), 0xDC00 + (code & 0x3FF))
        return "".join(f"\\u{half:04x}" for half in halves)

    return text if text.isprintable() else _CONTROLS.sub(escaped, text)


DISK_FULL = "no space is left on the disk"
# Faults of the machine or of a path that a person can repair; {path} is the file, where the system named it.
_MACHINE: Mapping[int, str] = {
    errno.EACCES: "no permission{path}: give another path, or change the rights of this one",
    errno.EPERM: "no permission{path}: give another path, or change the rights of this one",
    errno.EROFS: "the disk is read-only{path}: give a path on another one",
    errno.ENOENT: "there is no such file or folder{path}: check the path",
    errno.ENOTDIR: "part of the path is a file, not a folder{path}: give another path",
    errno.EISDIR: "this is a folder, and a file is needed{path}: give the path of a file",
    errno.EEXIST: "something else is there already{path}: give another path, or remove it",
    errno.ENOTEMPTY: "the folder is not empty{path}: give another path, or empty it",
    errno.ENAMETOOLONG: "the path is too long{path}: give a shorter one",
    errno.ELOOP: "the links of the path go in a circle{path}: give another path",
    errno.EMFILE: "too many files are open{path}: allow more (ulimit -n 65536), or do fewer things at once",
    errno.ENFILE: "too many files are open on this machine{path}: end other programs",
    errno.EFBIG: "the file would be larger than the system allows{path}: see ulimit -f",
    errno.EIO: "the disk reports a fault{path}: check it, or give a path on another one",
    errno.ESTALE: "the network disk has lost this file{path}: mount it anew",
    errno.EADDRINUSE: "the port is taken by another program: stop that, or choose another port",
    errno.ENOMEM: "the machine has no memory left: end other programs, or do fewer things at once",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
# safetensors and pyarrow pass on the system's words; torch.save only says how much of its file is missing.
_FULL_WORDS = re.compile(r"No space left on device|Disk quota exceeded|inline_container\S* \. unexpected pos \d+")


def says_disk_full(text: str) -> bool:
    """Return True if a message of any library is about a full disk or an exhausted quota."""
    return _FULL_WORDS.search(text) is not None


def is_disk_full(fault: BaseException) -> bool:
    """Return True if an error is a full disk or an exhausted quota."""
    seen: BaseException | None = fault
    while seen is not None:
        if (isinstance(seen, OSError) and seen.errno in _FULL) or says_disk_full(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def one_line(fault: BaseException, folder_option: str = "") -> str | None:
    """Return the message for the error that ended a command; None for a bug, whose traceback is needed.

    Args:
        fault: the error.
        folder_option: the command's option for its output, e.g. "--out FOLDER"; empty if it has none.
    """
    if isinstance(fault, AgentFlyError):
        return str(fault)
    path = f" ({fault.filename})" if isinstance(fault, OSError) and fault.filename is not None else ""
    if is_disk_full(fault):
        elsewhere = f", or move the folder to another disk and name it with {folder_option}" if folder_option else ""
        return (
            f"{DISK_FULL}{path}. What was written before is kept. Free some space{elsewhere}; then run the same "
            "command again"
        )
    message = _MACHINE.get(fault.errno or 0) if isinstance(fault, OSError) else None
    return message.format(path=path) if message is not None else None


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest valid name and all others.

    Args:
        kind: of the thing, such as "tool".
        name: the unknown name.
        valid: the valid names.
    """
    names, name = sorted(valid), shortened(name)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r}.{hint} Valid: {', '.join(names)}"
