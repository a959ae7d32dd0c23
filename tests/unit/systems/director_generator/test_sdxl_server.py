"""The documented SDXL server: our image server with an SDXL pipeline, and the system as its client."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image

from agentfly.serving.image_server import ServerSettings
from recipes.director_generator import sdxl_server
from recipes.director_generator.__main__ import main
from tests.tiny import build
from tests.unit.serving.image_server.running import wait_for
from tests.unit.systems.director_generator.conftest import ROOT, Configure, StudioServer


def test_documented_flags_make_the_documented_server(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[ServerSettings] = []
    monkeypatch.setattr("agentfly.serving.image_server.command.serve", lambda settings, _: given.append(settings))
    with pytest.raises(SystemExit) as ended:
        sdxl_server.main(["--port", "7001", "--device", "cuda:0"])
    assert not ended.value.code
    (settings,) = given
    assert (settings.model_type, settings.port, settings.device) == ("sdxl", 7001, "cuda:0")
    assert settings.model_path == "stabilityai/stable-diffusion-xl-base-1.0"


@pytest.mark.slow
def test_the_server_answers_and_makes_the_images_of_a_run(
    server: StudioServer, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, folder = f"http://127.0.0.1:{port}", build("sdxl", tmp_path / "sdxl")
    command = [sys.executable, "-m", "recipes.director_generator.sdxl_server"]
    flags = ["--port", str(port), "--device", "cpu", "--model-path", str(folder)]
    process = subprocess.Popen([*command, *flags], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        wait_for(lambda: _ready(url), 240)
        docs = subprocess.run(["curl", "-sf", f"{url}/docs"], capture_output=True, text=True, timeout=30)
        assert (docs.returncode, "agentfly image server" in docs.stdout) == (0, True)
        monkeypatch.setenv("SDXL_API_BASE", url)
        path = configure(sdxl={"steps": 2, "guidance_scale": 2.0})
        assert main(["a boat", "--config", str(path), "--output-dir", str(tmp_path / "o")]) == 0
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    (found,) = (tmp_path / "o").glob("*.json")
    result = json.loads(found.read_text(encoding="utf-8"))
    assert (result["status"], result["counts"]["mock_images"]) == ("threshold", 0)
    first, second = (Image.open(tmp_path / "o" / p["file"]) for p in result["phases"][2]["images"])
    assert first.size == second.size == (64, 64)
    assert first.tobytes() != second.tobytes()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
