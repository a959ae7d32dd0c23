"""Check that the necessary keys are set. The report shows their names only."""

from __future__ import annotations

import contextlib
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
    """An environment variable with a key.

    Attributes:
        variable: name.
        purpose: uses that need the key.
        file: in the home folder, an alternative place of the key.
        word: text in that file if it holds the key.
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
    """Check the keys in the environment and in the files of their programs."""
    yield from check_keys(os.environ, examination.request.base_url, Path.home())


def check_keys(variables: Mapping[str, str], base_url: str | None, home: Path) -> Iterator[Finding]:
    """Check the keys. One that is missing is an error only if the request needs it.

    Args:
        variables: of the environment.
        base_url: of the endpoint, or None.
        home: folder with the files of other programs.
    """
    host = urlsplit(base_url).hostname if base_url else None
    for key in KEYS:
        value, in_file = variables.get(key.variable, ""), False
        if key.file:
            with contextlib.suppress(OSError):
                in_file = key.word in (home / key.file).read_text(encoding="utf-8", errors="replace")
        if value and (value != value.strip() or value.strip("\"'") != value):
            yield error(
                f"{key.variable} has spaces or quotes around it, which become part of the key",
                f"export {key.variable} without them",
            )
        elif value:
            yield ok(f"{key.variable} is set")
        elif in_file:
            yield ok(f"{key.variable} is not set, ~/{key.file} has the key")
        elif key.variable == "OPENAI_API_KEY" and host == KEYED_HOST:
            yield error(f"{KEYED_HOST} answers nobody without a key", "export OPENAI_API_KEY")
        else:
            yield skipped(
                f"{key.variable} is not set; it is for {key.purpose}", f"export {key.variable} if you use them"
            )
