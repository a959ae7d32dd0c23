"""Read the authors' prompts from their own files, without running any of their code.

A Python file is parsed, and only assignments of plain texts are read. A JSON file is read as JSON. The files come from
a clone or a folder that a person names, or are downloaded from one commit of the authors' repository and kept in the
cache of the user.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agentfly.errors import ConfigError, ImageError, first_line
from agentfly.evaluation.protocols.base import PromptFile, Protocol
from agentfly.files import write_text
from agentfly.images.fetch import fetch
from agentfly.model_source import hub_is_off

_MOST_BYTES = 4 * 1024 * 1024
_SECONDS = 30.0
_RAW = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Prompts:
    """The prompts of a protocol.

    Attributes:
        texts: by name.
        digest: hash of names and texts; two runs with the same one asked the same.
        source: where they were read, for people.
    """

    texts: Mapping[str, str]
    digest: str
    source: str


def read_prompts(protocol: Protocol, split: str, root: Path | None) -> Prompts:
    """Read the prompts of a split.

    Args:
        protocol: names the files.
        split: one of its splits.
        root: clone of the authors' repository, or a folder with the files; None downloads them.

    Raises:
        ConfigError: a file or a prompt is missing, is no plain text, or cannot be downloaded.
    """
    texts: dict[str, str] = {}
    sources: list[str] = []
    for file in protocol.splits[split].prompts:
        path = _downloaded(protocol, file) if root is None else _found(protocol, file, root)
        texts |= _texts(path, file)
        sources.append(file.path)
    content = json.dumps(sorted(texts.items()), ensure_ascii=False)
    digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    place = f"{protocol.repository}@{protocol.commit[:12]}" if root is None else "--protocol-root"
    return Prompts(texts, digest, f"{place}: {', '.join(sources)}")


def fill(prompt: str, values: Mapping[str, str]) -> str:
    """Return a prompt of `str.format` with its fields filled in; `{{` is a brace.

    Args:
        prompt: may name the fields of `values`, nothing else of the language of formats.
        values: by name.

    Raises:
        ConfigError: the prompt has another field.
    """
    parts: list[str] = []
    try:
        for words, name, form, conversion in string.Formatter().parse(prompt):
            parts.append(words)
            if name is None:
                continue
            if name not in values or form or conversion:
                raise ConfigError(
                    f"a prompt of the authors has the field {{{name}}}, which this protocol does not know"
                )
            parts.append(values[name])
    except ValueError as fault:
        if isinstance(fault, ConfigError):
            raise
        raise ConfigError(f"a prompt of the authors is no format: {fault}") from fault
    return "".join(parts)


def _found(protocol: Protocol, file: PromptFile, root: Path) -> Path:
    """Return a file below the root, which may also be one of the folders on the way to it."""
    parts = PurePosixPath(file.path).parts
    for start in range(len(parts)):
        path = root.joinpath(*parts[start:])
        if path.is_file():
            return path
    raise ConfigError(
        f"--protocol-root {root} has no {file.path}: name a clone of https://github.com/{protocol.repository}, or a "
        "folder with that file"
    )


def _downloaded(protocol: Protocol, file: PromptFile) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = home / "agentfly" / "protocols" / protocol.name / protocol.commit / file.path
    if path.is_file():
        return path
    hint = f"clone https://github.com/{protocol.repository} and name the clone with --protocol-root FOLDER"
    if hub_is_off():
        raise ConfigError(
            f"the prompts of {protocol.name} are not here, and downloads are off (HF_HUB_OFFLINE): {hint}"
        )
    url = f"{_RAW}/{protocol.repository}/{protocol.commit}/{file.path}"
    try:
        text = fetch(url, timeout=_SECONDS, max_bytes=_MOST_BYTES).decode("utf-8")
    except (ImageError, UnicodeDecodeError) as fault:
        raise ConfigError(
            f"the prompts of {protocol.name} cannot be downloaded ({first_line(fault)}): {hint}"
        ) from fault
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, text)


def _texts(path: Path, file: PromptFile) -> dict[str, str]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path} has more than {_MOST_BYTES} bytes: it is no file of prompts")
        source = path.read_text(encoding="utf-8")
        found = _json_texts(source) if path.suffix == ".json" else _python_texts(source, file)
    except ConfigError:
        raise
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as fault:
        raise ConfigError(f"cannot read the prompts in {path}: {first_line(fault)}") from fault
    names = (*file.names, *(name for labels in file.labels.values() for name in labels))
    missing = [name for name in names if name not in found]
    if missing:
        raise ConfigError(
            f"{path} has no plain text {', '.join(missing)}: it is of another version than the protocol was written for"
        )
    return {name: found[name] for name in names or found}


def _json_texts(source: str) -> dict[str, str]:
    content = json.loads(source)
    return {key: text for key, text in content.items() if isinstance(text, str)} if isinstance(content, dict) else {}


def _python_texts(source: str, file: PromptFile) -> dict[str, str]:
    """Return the wanted texts of a module: assignments at its top level, the last one of a name, and labels."""
    found: dict[str, str] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id in file.names:
                    found.pop(target.id, None)
                    text = _literal(node.value)
                    # A format would have to be run.
                    found |= {} if text is None or isinstance(node.value, ast.JoinedStr) else {target.id: text}
        elif isinstance(node, ast.FunctionDef) and node.name in file.labels:
            texts, names = _labels(node), file.labels[node.name]
            found |= dict(zip(names, texts, strict=True)) if len(texts) == len(names) else {}
    return found


def _labels(function: ast.FunctionDef) -> list[str]:
    """Return the texts of `{"type": "text", "text": …}` in a function, in the order of the file."""
    dicts = sorted((n for n in ast.walk(function) if isinstance(n, ast.Dict)), key=lambda n: (n.lineno, n.col_offset))
    texts = []
    for node in dicts:
        fields = {k.value: v for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)}
        text = _literal(fields["text"]) if "text" in fields else None
        if text is not None:
            texts.append(text)
    return texts


def _literal(node: ast.expr) -> str | None:
    """Return a plain text, or an f-string of plain names as a format; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    parts: list[str] = []
    for part in node.values if isinstance(node, ast.JoinedStr) else ():
        if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) and part.format_spec is None:
            parts.append(f"{{{part.value.id}}}")
        elif isinstance(part, ast.Constant):
            parts.append(str(part.value).replace("{", "{{").replace("}", "}}"))
        else:
            return None
    return "".join(parts) or None
