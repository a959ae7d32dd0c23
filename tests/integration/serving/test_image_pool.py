"""The pool on real servers: processes of the documented command, one of them killed in the middle of the work."""

from __future__ import annotations

import asyncio
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
from PIL import Image, ImageChops

from agentfly.agents import ImageEditingAgent
from agentfly.vision.base import EditParams, InpaintParams
from agentfly.vision.remote import NodeConfig, PoolSettings, RemoteEngines, remote_engines
from agentfly.vision.remote.adapters import Operation
from tests.tiny import stable_diffusion

pytestmark = pytest.mark.slow

COMMAND = "agentfly.agents.specialized.image_agent.utils.diffuser_apis"
PUPPET = ["--model-type", "custom", "--model-path", "tests.unit.serving.image_server.custom_engines:puppet"]
START_SECONDS = 240
EDITS_AND_DETECTIONS: frozenset[Operation] = frozenset(("edit", "detect"))


class Server:
    """A process of the documented command that can be killed and started again on its port."""

    def __init__(self, flags: list[str], log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._command = [sys.executable, "-m", COMMAND, *flags, "--port", str(self.port), "--log-level", "warning"]
        self._log = log
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        pytest.fail(f"the server did not start:\n{self._log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two servers that edit and detect, and one with a tiny checkpoint that inpaints."""
    folder = tmp_path_factory.mktemp("servers")
    checkpoint = stable_diffusion.sd_inpaint(folder / "sd")
    flags = [PUPPET, PUPPET, ["--model-type", "inpaint", "--model-path", str(checkpoint), "--area", "4096"]]
    started = [Server(each, folder / f"{index}.log") for index, each in enumerate(flags)]
    try:
        for server in started:
            server.wait()
        yield started
    finally:
        codes = [server.stop() for server in started]
    assert codes == [0, 0, 0]


def engines_on(servers: list[Server]) -> RemoteEngines:
    first, second, third = servers
    nodes = [NodeConfig(server.url, operations=EDITS_AND_DETECTIONS) for server in (first, second)]
    return remote_engines([*nodes, NodeConfig(third.url)], timeout=120, settings=PoolSettings(open_seconds=0.2))


def make_image(number: int) -> Image.Image:
    return Image.new("RGB", (64, 64), (number, 255 - number, 7))


async def request(engines: RemoteEngines, number: int) -> object:
    """One of 200: its result can be told from all others'."""
    image = make_image(number)
    if number % 5 == 3:
        (found,) = await engines.detector.detect(image, f"thing {number}", box_threshold=0.3, text_threshold=0.3)
        return found.label
    if number % 5 == 4:
        mask = Image.new("L", (64, 64), 0)
        mask.paste(255, (0, 0, 32, 64))
        params = InpaintParams(num_inference_steps=1, seed=number)
        return (await engines.inpainter.inpaint(image, mask, "a cat", params)).getpixel((60, 5))
    return (await engines.editor.edit(image, "sleep 0.1", EditParams(seed=number))).getpixel((5, 5))


def expected(number: int) -> object:
    if number % 5 == 3:
        return f"thing {number}"
    image = make_image(number) if number % 5 == 4 else ImageChops.invert(make_image(number))
    return image.getpixel((60, 5))


async def test_every_request_is_answered_once_though_a_server_is_killed(servers: list[Server]) -> None:
    engines, answers, victim = engines_on(servers), dict[int, object](), servers[0]
    before_the_return = 0

    async def one(number: int, free: asyncio.Semaphore) -> None:
        async with free:
            result = await request(engines, number)
            assert number not in answers
            answers[number] = result

    async def disaster() -> None:
        nonlocal before_the_return
        while len(answers) < 40:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(victim.kill)
        before_the_return = engines.get_statistics().nodes[0].answered
        victim.start()

    free = asyncio.Semaphore(24)
    await asyncio.gather(disaster(), *(one(number, free) for number in range(200)))
    # What comes after the return: the server must be found again and be given work.
    await asyncio.to_thread(victim.wait)
    while engines.get_statistics().nodes[0].answered == before_the_return:
        await asyncio.gather(*(engines.editor.edit(make_image(1), "x", EditParams()) for _ in range(8)))
    statistics = engines.get_statistics()
    await engines.close()

    assert answers == {number: expected(number) for number in range(200)}
    assert statistics.answered == statistics.requests >= 200
    assert (statistics.refused, statistics.timed_out, statistics.failed, statistics.pending) == (0, 0, 0, 0)
    killed, other, inpainter = statistics.nodes
    assert killed.failed >= 1
    assert other.failed == inpainter.failed == 0
    # Of a request and its hedge both may be answered in the same moment; only one of the two answers counts.
    assert 0 <= sum(node.answered for node in statistics.nodes) - statistics.answered <= statistics.hedges
    assert inpainter.answered == 40
    assert all(n.attempts == n.answered + n.failed + n.busy + n.cancelled for n in statistics.nodes)


async def test_documented_agent_uses_the_servers(servers: list[Server]) -> None:
    agent = ImageEditingAgent(
        model_name_or_path="Qwen/Qwen2.5-VL-3B-Instruct",
        client_nodes=[("localhost", servers[0].port), ("localhost", servers[1].port)],
        max_requests_per_minute=6000,
        timeout=60,
    )
    image_id = agent._store_image(make_image(9))
    result = await agent.qwen_edit_image_tool(image_id=image_id, prompt="invert", seed=1)
    assert result.engine == f"remote: {PUPPET[-1]}"
    assert isinstance(agent.engines, RemoteEngines)
    assert agent.engines.get_statistics().answered == 1
    await agent.engines.close()
