"""Objects that people name as "module:name", and the place in their own files where something failed."""

from __future__ import annotations

import importlib
import sysconfig
import traceback
from pathlib import Path

from agentfly.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = tuple(
    Path(path).resolve() for name in ("stdlib", "purelib", "platlib") if (path := sysconfig.get_path(name))
)


def import_object(address: str, kind: str) -> object:
    """Import the object that "module:name" names; the name may be dotted.

    Args:
        address: as a person wrote it.
        kind: of the object, for messages, such as "tool".

    Raises:
        ConfigError: there is no such module or name, or the module fails when it is imported; the message has the
            person's file and line.
    """
    module, _, path = address.partition(":")
    if not module or not path:
        raise ConfigError(f"{kind} {address!r}: write module:name, such as my_project.tools:brighten")
    try:
        found: object = importlib.import_module(module)
    except (Exception, SystemExit) as fault:  # a module of anybody's may raise anything, and be a script
        missing = fault.name if isinstance(fault, ModuleNotFoundError) else None
        if missing is not None and f"{module}.".startswith(f"{missing}."):
            raise ConfigError(
                f"there is no {kind} {address!r}: no module {missing!r} is found; its folder must be the working "
                "folder, or on PYTHONPATH"
            ) from fault
        raise ConfigError(f"{kind} {address!r}: {module} cannot be imported: {described(fault)}") from fault
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as fault:
            raise ConfigError(f"there is no {kind} {address!r}: {module} has no {path!r}") from fault
    return found


def described(fault: BaseException) -> str:
    """Return kind and message of an error, with the person's file and line where it has passed through one."""
    place = own_line(fault)
    return f"{type(fault).__name__}: {fault}" + (f" ({place})" if place else "")


def own_line(fault: BaseException) -> str | None:
    """Return "file:line" of the innermost frame of an error outside this package and all installed ones, or None."""
    if isinstance(fault, SyntaxError) and fault.filename:
        return f"{fault.filename}:{fault.lineno}"
    for frame in reversed(traceback.extract_tb(fault.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(root in path.resolve().parents for root in (_PACKAGE, *_INSTALLED)):
            return f"{frame.filename}:{frame.lineno}"
    return None
