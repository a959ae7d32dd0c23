"""The family and the sizes of a policy, read without loading it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from agentfly.model_source import cached_copy, is_local
from agentfly.templates.families import LEVELS, PUBLISHED, find_family, model_type_of


@dataclass(frozen=True)
class PolicySizes:
    """What is known of a policy before anything is loaded.

    Attributes:
        model: folder or hub name.
        model_type: as `config.json` names it, None where neither that file nor the name tells.
        parameters: number of weights; None where neither the weights nor the name tell.
        hidden, layers, vocabulary: of the language model; 0 where they are not known.
        by_name: True if this is the table's entry of a published checkpoint that is not on this machine.
    """

    model: str
    model_type: str | None = None
    parameters: int | None = None
    hidden: int = 0
    layers: int = 0
    vocabulary: int = 0
    by_name: bool = False

    def family_in_words(self) -> str:
        """Return the family, its level, and what was not tried yet."""
        if self.model_type is None:
            return f"unknown: {self.why_unknown('config.json')}"
        family = find_family(self.model_type)
        if family is None:
            return f"model type {self.model_type}: of no family that was tried"
        support = family.support[self.model_type]
        words = f"{family.title} ({self.model_type}), level {support.level}: {LEVELS[support.level]}"
        if support.untried:
            words += f"; not tried yet: {', '.join(support.untried)}"
        return f"{words} (by the name: config.json is not on this machine)" if self.by_name else words

    def why_unknown(self, file: str) -> str:
        """Return the reason why something of the policy is not known.

        Args:
            file: that would tell it.
        """
        if is_local(self.model):
            return f"{file} is not in {self.model}"
        return f"{file} is not on this machine, and {self.model} is not in the table of published models"


def sizes_of(model: str) -> PolicySizes:
    """Return what a policy's folder tells, or its copy in the cache of the hub, or else its name.

    Args:
        model: folder or hub name. Nothing is downloaded.
    """
    published = PUBLISHED.get(model)
    folder = Path(model) if Path(model).is_dir() else cached_copy(model)
    model_type = None if folder is None else model_type_of(folder)
    if folder is not None and model_type is not None:
        text, parameters = text_config(folder), count_parameters(folder)
        if parameters is None and published is not None:
            parameters = published.parameters
        return PolicySizes(
            model,
            model_type,
            parameters,
            hidden=int(text.get("hidden_size", 0)),
            layers=int(text.get("num_hidden_layers", 0)),
            vocabulary=int(text.get("vocab_size", 0)),
        )
    if published is None:
        return PolicySizes(model)
    return PolicySizes(model, **vars(published), by_name=True)


def count_parameters(folder: Path) -> int | None:
    """Return the number of parameters of a checkpoint; None where the folder lacks safetensors files.

    Reads the headers of the files alone (https://github.com/huggingface/safetensors#format).
    """
    files, total = sorted(folder.glob("*.safetensors")), 0
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        # A download that was interrupted has some of the files.
        files = [folder / name for name in sorted({*json.loads(index.read_bytes())["weight_map"].values()})]
        if not all(path.is_file() for path in files):
            return None
    for path in files:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total if files else None


def text_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a checkpoint's language model, with the fields that it shares with other parts."""
    whole: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {**whole, **(whole.get("text_config") or {})}
