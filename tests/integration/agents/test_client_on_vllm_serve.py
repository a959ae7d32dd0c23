"""The client backend against a real `vllm serve`: tools, a picture, and a forced call that comes back parsed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent, RolloutLimits
from agentfly.agents.llm_backends import ClientConfig, SamplingParams

pytestmark = pytest.mark.slow

START_SECONDS = 300


@pytest.fixture(scope="module")
def server(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = {
        "--served-model-name": "tiny",
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": "float32",
        "--max-model-len": "1024",
        "--max-num-seqs": "8",
        "--kv-cache-memory-bytes": "134217728",
        "--limit-mm-per-prompt": '{"image": 4, "video": 0}',
        "--tool-call-parser": "hermes",
    }
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(tiny_policy)]
    command += [word for pair in arguments.items() for word in pair] + ["--enforce-eager", "--enable-auto-tool-choice"]
    environment = {**os.environ, "TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    log = tmp_path_factory.mktemp("serve") / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"vllm serve ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    pytest.fail(f"vllm serve did not answer in {START_SECONDS} s:\n{log.read_text()[-3000:]}")


async def test_a_forced_call_reaches_the_tool(server: str, picture: Image.Image) -> None:
    choice = {"type": "function", "function": {"name": "give_answer"}}
    config = ClientConfig(base_url=server, timeout=120, extra_body={"tool_choice": choice})
    limits = RolloutLimits(max_turns=1, max_tokens_per_turn=200)
    settings = AgentSettings(system_prompt=None, limits=limits, sampling=SamplingParams(temperature=0.0))
    agent = ImageEditingAgent("tiny", backend="client", backend_config=config, settings=settings)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "Finish."}]
    result = await agent.run([{"role": "user", "content": content}])
    await agent.close()
    assert result[0].error is None
    assert [record.name for record in result[0].tool_records] == ["give_answer"]
    assert result[0].tokens is None


async def test_text_streams_as_it_comes(server: str, picture: Image.Image, capsys: pytest.CaptureFixture[str]) -> None:
    agent = ImageEditingAgent(
        "tiny",
        backend="client",
        backend_config={"base_url": server, "timeout": 120},
        streaming="console",
        settings=AgentSettings(system_prompt=None, limits=RolloutLimits(max_turns=1, max_tokens_per_turn=16)),
    )
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "Say something."}]
    await agent.run([{"role": "user", "content": content}], enable_streaming=True)
    await agent.close()
    shown = capsys.readouterr().out
    assert "turn 1" in shown
    assert "end: " in shown
