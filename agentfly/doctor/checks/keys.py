"""Check that the necessary keys are set. Only their names are ever shown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agentfly.agents.llm_backends.endpoint import KEYED_HOST
from agentfly.doctor.examination import Examination
from agentfly.doctor.findings import Finding, error, ok, skipped


@dataclass(frozen=True)
class Key:
    """An environment variable with a key, what it is for, and where it may lie instead.

    Attributes:
        variable: its name.
        purpose: what does not work without it.
        file: in the home folder, where its program also keeps it.
        word: what the file holds when the key is in it.
    """

    variable: str
    purpose: str
    file: str = ""
    word: str = ""


KEYS = (
    Key("OPENAI_API_KEY", "an endpoint in the cloud, a judge as evaluator, OpenAI's image engine"),
    Key("WANDB_API_KEY", "logging to Weights & Biases (trainer.logger with wandb)", ".netrc", "wandb"),
    Key("HF_TOKEN", "gated and private models and data sets", ".cache/huggingface/token"),
)


def keys(examination: Examination) -> Iterator[Finding]:
    """Names of keys, in the environment and where their programs keep them."""
    yield from check_keys(os.environ, examination.request.base_url, Path.home())


def check_keys(variables: Mapping[str, str], base_url: str | None, home: Path) -> Iterator[Finding]:
    """A key is an error only where the request cannot do without it, or where it cannot be right."""
    host = urlsplit(base_url).hostname if base_url else None
    for key in KEYS:
        value = variables.get(key.variable, "")
        if value and (value != value.strip() or value.strip("\"'") != value):
            yield error(
                f"{key.variable} has spaces or quotes around it, which become part of the key",
                f"export {key.variable} without them",
            )
        elif value:
            yield ok(f"{key.variable} is set")
        elif key.file and _holds(home / key.file, key.word):
            yield ok(f"{key.variable} is not set, ~/{key.file} has the key")
        elif key.variable == "OPENAI_API_KEY" and host == KEYED_HOST:
            yield error(f"{KEYED_HOST} answers nobody without a key", "export OPENAI_API_KEY")
        else:
            yield skipped(
                f"{key.variable} is not set; it is for {key.purpose}", f"export {key.variable} if you use them"
            )


def _holds(file: Path, word: str) -> bool:
    try:
        return word in file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
