"""The spellings of the document on directors and generators: `src.main`, `scripts.sdxl_server`, its shell script."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.tiny import build
from tests.unit.serving.image_server.running import wait_for
from tests.unit.systems.director_generator.conftest import ROOT, StudioServer
from tests.unit.systems.director_generator.test_command import result_of

pytestmark = pytest.mark.slow

DOCUMENTS = ROOT / "recipes" / "documents"
# As the document has it, without the backslashes before its quotation marks, which a shell would take literally.
SCRIPT = """
export GPUS="0 1"
find audio2txt/processed -maxdepth 1 -name '*.json' -print0 |
  parallel -0 --jobs 4 --lb --env GPUS '
    file="{}"
    gpus=($GPUS); n=${#gpus[@]}
    slot={#}; idx=$(( (slot-1) % n ))
    sdxl_port=$((7000 + idx))
    base=$(basename "$file" .json)
    out_dir="output_chatgpt/output_$(date +%Y%m%d_%H%M%S_%N)_${base}"
    mkdir -p "$out_dir"
    SDXL_API_BASE=http://127.0.0.1:${sdxl_port} \\
    python -m src.main -f "$file" --max-iterations 5 --output-dir "$out_dir" \\
      --config config/system_config_openai.yaml \\
      > "$out_dir/run.log" 2>&1
  '
"""
# GNU parallel where it is not installed: the same options, one job after the other.
STAND_IN = f"""#!{sys.executable}
import shlex, subprocess, sys
*options, command = sys.argv[1:]
assert options == ["-0", "--jobs", "4", "--lb", "--env", "GPUS"], options
items = [item for item in sys.stdin.read().split(chr(0)) if item]
made = [command.replace("{{#}}", str(n)).replace("{{}}", shlex.quote(item)) for n, item in enumerate(items, 1)]
sys.exit(sum(subprocess.run(["bash", "-c", words]).returncode != 0 for words in made))
"""


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """The modules of the documents on the path, `python` and GNU parallel too; nothing else of this project."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
    if shutil.which("parallel") is None:
        (folder / "bin" / "parallel").write_text(STAND_IN, encoding="utf-8")
    for program in (folder / "bin").iterdir():
        program.chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": f"{DOCUMENTS}:{ROOT}", "OMP_NUM_THREADS": "1", **variables}


def test_the_documented_command(server: StudioServer, tmp_path: Path) -> None:
    settings = environment(tmp_path, OPENAI_API_KEY="EMPTY", VLLM_API_BASE=server.v1)
    command = ["python", "-m", "src.main", "sample prompt"]
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path / "output")
    assert (result["prompt"], result["status"]) == ("sample prompt", "threshold")
    assert result["settings"]["max_loops"] == 10
    assert result["settings"]["recursion_limit"] == 1000
    assert result["settings"]["sdxl"]["mode"] == "mock"
    assert len([*(tmp_path / "output").rglob("*.png")]) == 2


@contextmanager
def sdxl_server(port: int, model: Path, env: dict[str, str]) -> Iterator[None]:
    """The documented server on a tiny pipeline, until the block ends; then it must end well."""
    command = [
        "python",
        "-m",
        "scripts.sdxl_server",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--model-path",
        str(model),
    ]
    process = subprocess.Popen(command, cwd=model.parent, env=env)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def two_ports() -> int:
    """Return a free port whose next one is free, too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def test_two_sdxl_servers_and_the_script_as_it_is_written(server: StudioServer, tmp_path: Path) -> None:
    folder = tmp_path / "audio2txt" / "processed"
    folder.mkdir(parents=True)
    for name in ("0000_45-55", "0001_10-20", "0002_20-30"):
        (folder / f"{name}.json").write_text(json.dumps({"text": f"boat {name}"}), encoding="utf-8")
    # Small and quick, in the place where the command looks first; everything else of the preset stays.
    config = (ROOT / "recipes/director_generator/config/system_config_openai.yaml").read_text(encoding="utf-8")
    for old, new in (("size: 1024x1024", "size: 64x64"), ("steps: 30", "steps: 2"), ("../prompts", str(PROMPTS))):
        assert old in config
        config = config.replace(old, new)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/system_config_openai.yaml").write_text(config, encoding="utf-8")
    for name in ("directors.json", "generators.json"):
        shutil.copy(ROOT / "recipes/director_generator/config" / name, tmp_path / "config" / name)
    model, port = build("sdxl", tmp_path / "sdxl"), two_ports()
    env = environment(tmp_path, OPENAI_API_KEY="sk-1", OPENAI_BASE_URL=server.v1)
    with ExitStack() as stack:
        for number in (0, 1):
            stack.enter_context(sdxl_server(port + number, model, env))
        wait_for(lambda: answers(port) and answers(port + 1), 300)
        check = ["curl", "-sf", f"http://127.0.0.1:{port}/docs"]
        docs = subprocess.run(check, capture_output=True, text=True, timeout=30)
        assert (docs.returncode, "agentfly image server" in docs.stdout) == (0, True)
        script = SCRIPT.replace("7000", str(port))
        command = ["bash", "-c", script]
        shell = {**env, "SHELL": shutil.which("bash") or "/bin/bash"}
        done = subprocess.run(command, cwd=tmp_path, env=shell, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    runs = {path.name.split("_", 4)[4]: path for path in (tmp_path / "output_chatgpt").iterdir()}
    assert runs.keys() == {"0000_45-55", "0001_10-20", "0002_20-30"}
    results = [result_of(path) for path in runs.values()]
    assert {result["settings"]["sdxl"]["api_base"] for result in results} == {
        f"http://127.0.0.1:{port}",
        f"http://127.0.0.1:{port + 1}",
    }
    for path, result in zip(runs.values(), results, strict=True):
        assert (result["status"], result["counts"]["mock_images"]) == ("threshold", 0)
        assert "round 1, paint" in (path / "run.log").read_text(encoding="utf-8")
        first, second = (Image.open(path / image["file"]) for image in result["phases"][2]["images"][:2])
        assert first.size == second.size == (64, 64)
        assert first.tobytes() != second.tobytes()


PROMPTS = ROOT / "recipes" / "director_generator" / "prompts"
