"""Mistakes that people make, typed as they make them: each ends in one line that names what to do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from agentfly.cli import main
from recipes.director_generator.__main__ import main as director_generator
from recipes.text_systems.__main__ import main as text_systems
from tests.unit.agents.conftest import ChatServer, failure, running_server, server

__all__ = ["running_server", "server"]

ROOT = Path(__file__).resolve().parents[2]
EDIT = ("edit", "cat.png", "Make it darker", "--model", "m")
AWAY = ("--base-url", "http://127.0.0.1:1/v1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an image, and an environment that says nothing."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "API_", "VLLM_", "SDXL_", "UPLOAD_"))]:
        monkeypatch.delenv(name)
    Image.new("RGB", (64, 48), "red").save(tmp_path / "cat.png")
    return tmp_path


Typed = Callable[..., str]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    """Type a command of agentfly, which must end with exit code 1 and one line; return that line."""

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(words)
        said = capsys.readouterr()
        lines = said.err.strip().splitlines()
        assert (ended.value.code, len(lines)) == (1, 1), said.out + said.err
        return lines[0].removeprefix("error: ")

    return run


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["edit", "nowhere.png", "x", "--model", "m", "--base-url", "URL"], "no image file at 'nowhere.png': check"),
        (["generate", "a ring", "--refs", "nowhere.png", "--generator", "classical", "--prompter", "feedback",
          "--evaluator", "structural"], "no image file at 'nowhere.png'"),
        (["view", "nowhere"], "there is no run at"),
        ([*EDIT, *AWAY], "cannot reach http://127.0.0.1:1/v1"),
        ([*EDIT, *AWAY, "--out", "cat.png/out.png"], "is a file): give another --out"),
        ([*EDIT, "--base-url", "URL", "--nodes", "127.0.0.1:1"], "no image server can be used (http://127.0.0.1:1"),
        ([*EDIT, "--base-url", "URL", "--engine", "clasical"], "Did you mean 'classical'"),
        (["generate", "a ring"], "no API key: set OPENAI_API_KEY"),
        (["generate", "a ring", "--rubric", "jewellery"], "jewelry"),
        (["eval", "--agent", "director-generater", "--data", "stickers", "--out", "o", "--evaluator",
          "reference"], "Did you mean"),
        (["data", "check", "nowhere"], "nowhere"),
        (["serve-images", "--model-type", "sdxl"], "needs --model-path"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_the_fix(
    words: Sequence[str], fix: str, server: ChatServer, typed: Typed
) -> None:
    line = typed(*(server.url if word == "URL" else word for word in words))
    assert fix in line


def test_a_wrong_model_and_a_wrong_key(server: ChatServer, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    server.say(failure(404, "The model `m` does not exist."))
    line = typed(*EDIT, "--base-url", server.url)
    assert "The model `m` does not exist." in line
    assert "check the model name" in line
    server.wanted = "right"
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    line = typed(*EDIT, "--base-url", server.url)
    assert "OPENAI_API_KEY" in line
    assert "wrong" not in line.replace("OPENAI_API_KEY", "").replace("is wrong", "")


def test_a_missing_package_names_its_extra(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert "pip install -e '.[s3]'" in typed("generate", "a ring", "--upload", "s3://bucket/x/")


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["edit", "cat.png", "x", "--enginee", "models"], "--engine"),
        (["generate", "a ring", "--max-iteratons", "3"], "--max-iterations"),
        (["serve-images", "--model-type", "sdxl", "--prot", "7000"], "--port"),
    ],
    ids=["edit", "generate", "serve-images"],
)
def test_a_misspelt_option_offers_the_nearest(words: list[str], fix: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "No such option" in line)
    assert fix in line


@pytest.mark.parametrize(
    ("command", "flag", "fix"),
    [(director_generator, "--confg", "--config"), (text_systems, "--num-cals", "--num-calls")],
    ids=["director_generator", "text_systems"],
)
def test_a_misspelt_option_of_a_recipe_offers_the_nearest(
    command: Callable[[list[str]], int], flag: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(["a boat", flag, "x"] if command is director_generator else [flag, "2"])
    assert ended.value.code == 2
    assert f"unknown option '{flag}'. Did you mean '{fix}'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["agentfly.cli", "serve-images", "--model-type", "classical", "--port"],
        ["agentfly.cli", "serve-evaluator", "structural", "--port"],
        ["agentfly.cli", "view", "run", "--no-open", "--port"],
        ["agentfly.cli", "mcp", "--transport", "http", "--port"],
    ],
    ids=["serve-images", "serve-evaluator", "view", "mcp"],
)
def test_a_port_that_is_taken_is_one_line(words: list[str], folder: Path) -> None:
    from tests.unit.viewer.made import line, run_of

    run_of(folder / "run", line("a"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", *words, port], env=environment, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert port in last
    assert "--port" in last
    assert "Traceback" not in done.stderr


# A disk that lets nobody write, mounted for one process.
READ_ONLY = 'mount -t tmpfs -o ro tmpfs "$0" && exec "$@"'


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["agentfly.cli", "generate", "a red circle", "--generator", "classical", "--evaluator", "structural",
         "--prompter", "feedback", "--output-dir"],
        ["agentfly.cli", "data", "convert", "stickers", "--out"],
        ["recipes.director_generator", "a boat", "--output-dir"],
        ["agentfly.cli", "new"],
    ],
    ids=["generate", "data", "director_generator", "new"],
)  # fmt: skip
def test_a_folder_that_cannot_be_written_is_one_line(words: list[str], folder: Path) -> None:
    disk = folder / "disk"
    disk.mkdir()
    mounted = ["unshare", "-rm", "sh", "-c", READ_ONLY, str(disk)]
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*mounted, sys.executable, "-m", *words, str(disk / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    line = " ".join(done.stderr.strip().splitlines()[-1].split())
    assert "read-only" in line.lower()
    assert "another" in line
    assert "Traceback" not in done.stderr
