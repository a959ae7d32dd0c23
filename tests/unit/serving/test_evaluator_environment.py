"""`agentfly serve-evaluator`: an environment is made once, with what the evaluator needs, and serves from there."""

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
from typer.testing import CliRunner

from agentfly.cli import app
from agentfly.errors import ConfigError
from agentfly.serving.evaluator_environment import LOG, STAMP, make_environment
from tests.unit.serving.image_server.running import wait_for

# Takes the place of uv: it notes its words, and makes an environment of this Python.
UV = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if os.environ.get("UV_FAILS"):
    sys.exit("no such package: nonsense")
if sys.argv[1] == "venv":
    folder = sys.argv[-1]
    os.makedirs(folder + "/bin", exist_ok=True)
    with open(folder + "/bin/python", "w") as file:
        file.write("#!/bin/sh\\nPYTHONPATH={root} exec {python} \\"$@\\"\\n")
    os.chmod(folder + "/bin/python", 0o755)
"""
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The words that uv was called with, a line each."""
    folder, log = tmp_path / "tools", tmp_path / "uv.log"
    folder.mkdir()
    (folder / "uv").write_text(UV.format(python=sys.executable, log=str(log), root=ROOT), encoding="utf-8")
    (folder / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return log


def calls(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_an_environment_is_made_once_with_the_extras_and_the_prompts_alone(uv: Path, tmp_path: Path) -> None:
    folder = tmp_path / "env"
    python = make_environment(folder, "editscore", ["scorer==1"])
    venv, install, prompts = calls(uv)
    assert venv[0] == "venv"
    assert install[:4] == ["pip", "install", "--python", str(python)]
    assert install[4:] == ["-e", f"{ROOT}[serve,rewards]", "scorer==1"]
    assert prompts[4:] == ["--no-deps", "editscore==0.2"]
    make_environment(folder, "editscore", ["scorer==1"])
    assert len(calls(uv)) == 3
    make_environment(folder, "editscore", ["scorer==2"])
    assert len(calls(uv)) == 6


def test_a_failed_installation_names_its_reason_and_is_tried_again(
    uv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "env"
    monkeypatch.setenv("UV_FAILS", "1")
    with pytest.raises(ConfigError, match=rf"no such package: nonsense; its log is .*{LOG}"):
        make_environment(folder, "reference")
    assert not (folder / STAMP).exists()
    monkeypatch.delenv("UV_FAILS")
    assert make_environment(folder, "reference").is_file()


def test_a_folder_with_something_else_in_it_is_left_alone(uv: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(ConfigError, match="holds something else"):
        make_environment(tmp_path, "reference")
    assert not uv.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reference", "--requirements", "x"], "add --venv FOLDER"),
        (['{"reward": "a:b"}'], "a server has one evaluator"),
        (["referense"], "Did you mean 'reference'"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["serve-evaluator", *words])
    assert done.exit_code != 0
    assert message in str(done.exception)


@pytest.mark.slow
def test_the_command_serves_from_its_environment_until_it_is_stopped(uv: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["serve-evaluator", "reference", "--venv", str(tmp_path / "env"), "--port", str(port), "--in-flight", "2"]
    process = subprocess.Popen([sys.executable, "-m", "agentfly.cli", *words], cwd=ROOT)

    def answers() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).json()["evaluator"] == "ReferenceEvaluator"
        except httpx.HTTPError:
            return False

    try:
        wait_for(answers)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()
