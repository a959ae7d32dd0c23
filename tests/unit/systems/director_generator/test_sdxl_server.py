"""The documented SDXL server: our image server with an SDXL pipeline. `test_documents` runs two of them."""

from __future__ import annotations

import pytest

from agentfly.serving.image_server import ServerSettings
from recipes.director_generator import sdxl_server


def test_documented_flags_make_the_documented_server(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[ServerSettings] = []
    monkeypatch.setattr("agentfly.serving.image_server.command.serve", lambda settings, _: given.append(settings))
    with pytest.raises(SystemExit) as ended:
        sdxl_server.main(["--port", "7001", "--device", "cuda:0"])
    assert not ended.value.code
    (settings,) = given
    assert (settings.model_type, settings.port, settings.device) == ("sdxl", 7001, "cuda:0")
    assert settings.model_path == "stabilityai/stable-diffusion-xl-base-1.0"
