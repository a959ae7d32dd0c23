"""Options that take several values, as the documents write them."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer

from agentfly.cli import app


def parsed(line: str) -> dict[str, Any]:
    """Return the parameters of a command line without running it."""
    verb, *words = shlex.split(line)
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    return dict(command.make_context(verb, words).params)


@pytest.mark.parametrize(
    "line",
    [
        "generate 'a car' --refs ./style.jpg https://example.com/b.png --quality high",
        "generate --refs ./style.jpg https://example.com/b.png --quality high -- 'a car'",
        "generate 'a car' --quality high --refs ./style.jpg --refs=https://example.com/b.png",
    ],
)
def test_references_end_at_the_next_option(line: str) -> None:
    found = parsed(line)
    assert (found["prompt"], found["quality"]) == ("a car", "high")
    assert list(found["refs"]) == ["./style.jpg", "https://example.com/b.png"]


def test_gpus_are_numbers() -> None:
    found = parsed("serve-images --model-type qwen --model-path m --gpu-ids 0 1 --use-fast --port 8000")
    assert (list(found["gpu_ids"]), found["use_fast"], found["port"]) == ([0, 1], True, 8000)
