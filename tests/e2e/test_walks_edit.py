"""Run the commands of the pages about editing to the letter, in processes of their own, against loopback servers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from PIL import Image

from agentfly.datasets.photos import load_photo
from tests.unit.agents.conftest import ChatServer, delta, running_server, server, stream
from tests.unit.serving.image_server.running import command
from tests.unit.vision.remote.fake_node import FakeNode

__all__ = ["running_server", "server"]  # fixtures

pytestmark = pytest.mark.slow

DOCS = Path(__file__).resolve().parents[2] / "docs"
OPENAI = "https://api.openai.com/v1"
EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "darken"}}</tool_call>'
ANSWER = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2"}}</tool_call>'
# Packages that `pip install -e .` does not install.
NOT_LIGHT = (
    "accelerate datasets diffusers groundingdino hydra litellm matplotlib omegaconf pandas peft prometheus_client "
    "psutil pyarrow qwen_vl_utils ray safetensors tensordict tokenizers torch torchvision transformers verl vllm wandb"
)
LIGHT = f"""
import sys
sys.modules.update(dict.fromkeys({NOT_LIGHT.split()}))
from agentfly.cli import main
main()
"""


def page(name: str, heading: str) -> tuple[dict[str, str], list[str]]:
    """Return the variables and the commands of the first block of commands below a heading."""
    _, _, section = (DOCS / name).read_text(encoding="utf-8").partition(f"# {heading}\n")
    found = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert found is not None, f"{name} has no commands below {heading!r}"
    lines = found[1].splitlines()
    exported = [line.removeprefix("export ") for line in lines if line.startswith("export ")]
    variables = dict(line.split("=", 1) for line in exported)
    return variables, [line for line in lines if not line.startswith("export ")]


def run(line: str, folder: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command of a page with the light package alone, in an environment without keys."""
    program, *words = shlex.split(line)
    assert program == "agentfly"
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return subprocess.run(
        [sys.executable, "-c", LIGHT, *words],
        cwd=folder,
        env={**quiet, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the message of a command that failed, which is one line."""
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def edited(server: ChatServer) -> None:
    server.say(*(stream(delta(content=text), delta("stop")) for text in (EDIT, ANSWER)))


def brightness(path: Path) -> float:
    with Image.open(path) as image:
        values = image.convert("L").tobytes()
    return sum(values) / len(values)


def test_a_photo_and_a_key(server: ChatServer, tmp_path: Path) -> None:
    variables, (line,) = page("agent.md", "A photo and a key")
    photo, out = tmp_path / "photo.jpg", tmp_path / "out.png"
    load_photo("coffee.png").save(photo)
    key = server.wanted = variables["OPENAI_API_KEY"]
    assert f"--base-url {OPENAI}" in line

    # Without the key no server is asked.
    said = one_line(run(line, tmp_path, {}))
    assert said == f"error: {OPENAI} answers nobody without a key: export OPENAI_API_KEY with yours"
    # A key that only the image model needs is missed just as early.
    said = one_line(run(line.replace(OPENAI, server.url), tmp_path, {}))
    assert "set OPENAI_API_KEY" in said
    # No server at the address: one line, and no advice about the instruction.
    said = one_line(run(line.replace(OPENAI, "http://127.0.0.1:1/v1"), tmp_path, variables))
    assert said.startswith("error: cannot reach http://127.0.0.1:1/v1")
    assert "other words" not in said
    assert server.bodies == []
    assert not out.exists()

    edited(server)
    with FakeNode().up() as images:
        done = run(line.replace(OPENAI, server.url), tmp_path, {**variables, "OPENAI_BASE_URL": f"{images.url}/v1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "out.png in 2 turns" in done.stdout
    assert done.stderr == ""
    with Image.open(photo) as before, Image.open(out) as after:
        assert after.size == before.size
        assert after.getpixel((5, 5)) == (1, 2, 3)
    # The service chooses the image model; both get the key, and neither shows it.
    assert [form["prompt"] for form in images.forms] == ["darken"]
    assert "model" not in images.forms[0]
    assert {*images.keys, *server.keys} == {f"Bearer {key}"}
    assert key not in done.stdout


def answered(url: str, key: str) -> int:
    """Return the number of edits that a server has answered with an image."""
    text = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"}, timeout=10).text
    counts = re.findall(r'agentfly_image_requests_total\{operation="edit",status="200"\} (\d+)', text)
    return sum(map(int, counts))


def test_two_image_servers_and_a_pool(server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables, lines = page("image_server.md", "Many servers: the pool")
    first_line, second_line, edit = lines
    photo, out = tmp_path / "photo.png", tmp_path / "out.png"
    load_photo("coffee.png").save(photo)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    serve = [line.replace("agentfly", "python -m agentfly.cli", 1) for line in (first_line, second_line)]
    with command(serve[0]) as (first, first_url), command(serve[1]) as (second, second_url):
        urls = {url: url.replace("127.0.0.1", "localhost") for url in (first_url, second_url)}
        for documented, url in zip(("localhost:8001", "localhost:8002"), urls.values(), strict=True):
            assert documented in edit
            edit = edit.replace(documented, url.removeprefix("http://"))
        edit = edit.replace("http://localhost:9100/v1", server.url)
        server.models = ["only"]

        # Without its key, and with a wrong one, no server does anything.
        said = one_line(run(edit.replace("--nodes-key-env IMAGE_KEY", ""), tmp_path, variables))
        assert "wants a key (401" in said
        assert "--nodes-key-env" in said
        said = one_line(run(edit, tmp_path, {"IMAGE_KEY": "another"}))
        assert "refused the key (401" in said
        assert "another" not in said
        assert server.bodies == []

        edited(server)
        done = run(edit, tmp_path, variables)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        assert brightness(out) < brightness(photo)
        assert answered(first_url, variables["IMAGE_KEY"]) + answered(second_url, variables["IMAGE_KEY"]) == 1

        out.unlink()
        first.terminate()
        first.wait(30)
        edited(server)
        done = run(edit, tmp_path, variables)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"image servers that cannot be used: {urls[first_url]}: cannot connect" in done.stderr
        assert brightness(out) < brightness(photo)

        out.unlink()
        second.terminate()
        second.wait(30)
        asked, started = len(server.bodies), time.monotonic()
        said = one_line(run(edit, tmp_path, variables))
        assert time.monotonic() - started < 30
        assert f"no image server can be used ({urls[first_url]}: cannot connect" in said
        assert f"{urls[second_url]}: cannot connect" in said
        assert len(server.bodies) == asked
        assert not out.exists()
