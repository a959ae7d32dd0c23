"""The documents' server command on a tiny checkpoint: text agents, and directors and generators, as they are typed.

An untrained policy says nothing of sense. A grammar makes its replies usable, so that a whole run can end well.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from agentfly.systems import BasicAgent, ChainOfAgents, MultiCallSystem, VLLMModel
from agentfly.templates import load_template

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "recipes" / "director_generator"
START_SECONDS = 900
NAME = "qwen/Qwen2.5-VL-7B-Instruct"
# What a CPU and a checkpoint of this size need besides the documented flags.
SMALL = ("--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", "134217728", "--max-model-len", "4096")
# Otherwise the start is spent on 65 videos of the largest size.
IMAGES = ("--limit-mm-per-prompt", '{"image": 2, "video": 0}')
# A JSON schema would leave room for spaces, of which an untrained policy writes without end.
CRITIQUE = r'\{"feedback": "[a-z]{3,12}", "score": [1-9][0-9]\}'


@pytest.fixture(scope="module")
def url(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server, up to /v1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("vllm")
    (folder / "template.jinja").write_text(load_template("compact-tool"), encoding="utf-8")
    template = ["--chat-template", str(folder / "template.jinja"), "--chat-template-content-format", "openai"]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_policy)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", NAME]
    command += [*SMALL, *IMAGES, "--max-num-seqs", "8", "--no-enable-chunked-prefill", *template]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}
    log = folder / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()


def wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"vLLM did not come up:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)


async def test_text_agents_on_a_real_server(url: str, tmp_path: Path) -> None:
    model = VLLMModel(NAME, url, max_tokens=12, timeout=120)
    words: dict[str, Any] = {"structured_outputs": {"regex": "[a-z]{3,5}( [a-z]{3,5}){2}"}}
    pieces = [piece async for piece in model.call_stream([{"role": "user", "content": "hello"}], seed=1, **words)]
    assert len(pieces) > 1, "it streams"
    assert len("".join(pieces).split()) == 3
    # The same seed gives the same answer, here without a stream to read.
    assert await BasicAgent("a", model).run("hello", seed=1, **words) == "".join(pieces)
    chain = ChainOfAgents("c", model, chunk_size=60, chunk_overlap=6)
    text = (ROOT / "recipes/text_systems/context.txt").read_text(encoding="utf-8")
    assert len((await chain.run("Who?", text, output_dir=tmp_path / "steps", **words)).split()) == 3
    assert len(chain.steps) > 2
    done = await MultiCallSystem("m", model).run("Write.", 4, tmp_path / "out", "website", seed=3, **words)
    answers = [Path(path).read_text(encoding="utf-8") for path in done.values()]
    assert [len(answer.split()) for answer in answers] == [3] * 4
    assert len(set(answers)) > 1
    await model.close_client()


def test_directors_and_generators_on_the_documented_server(url: str, tmp_path: Path) -> None:
    config = yaml.safe_load((RECIPE / "config/system_config.yaml").read_text(encoding="utf-8"))
    usual = {"provider": "vllm", "model": NAME, "max_tokens": 60}
    prompts = {"structured_outputs": {"regex": "[a-z]{3,5}( [a-z]{3,5}){2}"}}
    config["models"] = {
        "judge": {**usual, "extra_body": {"structured_outputs": {"regex": CRITIQUE}}},
        "writer": {**usual, "extra_body": prompts},
    }
    config |= {"roles": {"director": "judge", "generator": "writer"}, "evaluation_threshold": 100, "chat": "client"}
    config |= {"prompts": str(RECIPE / "prompts"), "sdxl": {"mode": "mock", "size": "168x168"}}
    for name, persona in (("directors", "You look."), ("generators", "You write.")):
        config[name] = str(tmp_path / f"{name}.json")
        Path(config[name]).write_text(json.dumps([{"name": "Ada", "persona": persona}]), encoding="utf-8")
    (tmp_path / "config").mkdir()
    (tmp_path / "config/system_config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    path = f"{ROOT / 'recipes/documents'}:{ROOT}"
    environment = {**os.environ, "PYTHONPATH": path, "OPENAI_API_KEY": "EMPTY", "VLLM_API_BASE": url}
    command = [sys.executable, "-m", "src.main", "sample prompt", "--max-iterations", "2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / done.stdout.strip()).read_text(encoding="utf-8"))
    assert (result["status"], result["counts"]["loops"]) == ("max_loops", 2)
    assert result["counts"]["failed_calls"] == 0
    assert 10 <= result["best"]["score"] <= 99
    assert {call["via"] for phase in result["phases"] for call in phase["calls"]} == {"client"}
    shown = [len(call["images"]) for phase in result["phases"] for call in phase["calls"]]
    assert max(shown) == 1, "the directors see the image"
