"""The prompts that a reward model was trained with, read from the files of its makers.

They are no part of agentfly. A model that is asked in other words is another model, so there is no default in their
place. The files are Python with texts in it: they are parsed, and none of their code runs.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from agentfly.errors import ConfigError
from agentfly.files import read_text

_LARGEST = 1024 * 1024  # bytes


def packaged_file(package: str, name: str) -> Path | None:
    """Return a file of an installed package, which is not imported; None where there is none.

    Args:
        package: its name for imports.
        name: of the file in its folder.
    """
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return next((path for folder in folders if (path := Path(folder) / name).is_file()), None)


def read_texts(path: Path, names: Sequence[str], remedy: str) -> dict[str, str]:
    """Return texts that a Python file assigns to names.

    Args:
        path: of the file.
        names: that are needed.
        remedy: advice for messages.

    Raises:
        ConfigError: the file cannot be read, or lacks a name.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{path} has more than {_LARGEST} bytes, so it holds no prompts: {remedy}")
        tree = ast.parse(read_text(path))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as fault:
        if isinstance(fault, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be read as Python with prompts ({fault}): {remedy}") from fault
    found = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if missing := [name for name in names if name not in found]:
        raise ConfigError(f"{path} has no {', '.join(missing)}: {remedy}")
    return {name: found[name] for name in names}
