"""One server for the tests of a module, with nothing said and nothing heard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentfly.systems.refinement import RefinementSettings
from tests.unit.systems.refinement.openai_server import OpenAIServer, openai_server


@pytest.fixture
def openai(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[OpenAIServer]:
    """The server, an environment with a key, and a working folder without settings of the developer's."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "OPENAI_BASE_URL",
        "OPENAI_MODEL",
        "MAX_ITERATIONS",
        "SCORE_THRESHOLD",
        "UPLOAD_URL",
        "UPLOAD_PUBLIC_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-1")
    with openai_server() as server:
        yield server


def at(server: OpenAIServer, **fields: Any) -> RefinementSettings:
    """Settings for a server that is not tried again."""
    return RefinementSettings(**{"base_url": server.url, "retries": 0, "max_iterations": 3, "timeout": 20, **fields})
