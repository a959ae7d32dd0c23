"""An hour of rollouts on an image server, while connections fail and strangers send nonsense: does anything grow?

    python benchmarks/soak.py [--minutes 60] [--json FILE]

Batches of 32 chains run one after another: four turns each, with real tools on the classical engines of a real image
server. A proxy between them cuts one request in a hundred, or answers it with an error 500. The model's text is now and
then no JSON, or asks for a tool that does not exist. Meanwhile another client sends the server the hostile requests of
`tests/fuzz`, and leaves before some of the answers.

Memory and open files of the client and of the server with its workers are sampled through all of it. Growth is the
slope of a line by least squares through the samples of the second half: in the first, caches fill. At the end every
chain must have come back exactly once, with an end of its own, and the server must hold nothing any more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import httpx
import psutil
from image_server import ROOT, server
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from agentfly.agents import AgentSettings, RolloutLimits
from agentfly.agents.image_editing import ImageEditingAgent
from agentfly.agents.llm_backends import GenerationRequest, ScriptedBackend
from agentfly.files import write_text
from agentfly.images import ImageStore

sys.path.append(str(ROOT))
from tests.fuzz.exchanges import REQUESTS, Request

FAULTS = 0.01
TURNS, PROMPTS, GROUP = 4, 8, 4
FAULT = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
CALLS = (
    {"name": "detect_objects", "arguments": {"image_id": "img_1", "text_prompt": "red circle"}},
    {"name": "auto_inpaint_image", "arguments": {"image_id": "img_1", "detect_prompt": "red circle", "prompt": "x"}},
    {"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "brighten"}},
)


@dataclass(frozen=True)
class Sample:
    """One look at the processes.

    Attributes:
        seconds: since the start.
        client_mib, server_mib: resident memory of this process, and of the server with its workers.
        client_files, server_files: their open files, sockets included.
    """

    seconds: float
    client_mib: float
    server_mib: float
    client_files: int
    server_files: int


@dataclass
class Soaked:
    """What happened.

    Attributes:
        chains, lost, doubled: chains that were started; those that did not come back; those that came back twice.
        ends: reasons for which chains ended.
        faults: requests that the proxy cut or answered.
        answers: statuses of the answers to strangers; 0 for none.
        left: what the server still holds at the end.
        samples: in their order.
    """

    chains: int = 0
    lost: int = 0
    doubled: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    faults: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    left: int = 0
    samples: list[Sample] = field(default_factory=list)

    @property
    def broken(self) -> int:
        """Answers to strangers that admit a fault of the server; 503 and 504 say that it is full."""
        return sum(count for status, count in self.answers.items() if status >= 500 and status not in (503, 504))

    def slope(self, name: str) -> float:
        """Growth of a figure of the samples in an hour, over the second half; 0 for fewer than three samples."""
        half = self.samples[len(self.samples) // 2 :]
        if len(half) < 3:
            return 0.0
        line = statistics.linear_regression([s.seconds for s in half], [getattr(s, name) for s in half])
        return 3600 * line.slope

    def as_json(self) -> dict[str, object]:
        """The figures with what is derived from them."""
        growth = {name: self.slope(name) for name in ("client_mib", "server_mib", "client_files", "server_files")}
        figures = {**vars(self), "samples": [asdict(sample) for sample in self.samples]}
        return {**figures, "growth_an_hour": growth, "broken": self.broken}


class Proxy:
    """Hands requests on to the server, but for one in a hundred."""

    def __init__(self, soaked: Soaked, target: tuple[str, int], seed: int) -> None:
        self._soaked, self._target, self._drawn = soaked, target, random.Random(seed)

    async def serve(self) -> asyncio.Server:
        """Start to listen on a free port of this machine."""
        return await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            behind, before = await asyncio.open_connection(*self._target)
            try:
                back = asyncio.create_task(self._copy(behind, writer))
                await self._forward(reader, before, writer)
                before.close()
                await asyncio.wait({back}, timeout=60)
                back.cancel()
            finally:
                before.close()
        writer.close()

    async def _forward(
        self, reader: asyncio.StreamReader, before: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        while part := await reader.read(65536):
            if part.startswith(b"POST") and self._drawn.random() < FAULTS:
                self._soaked.faults += 1
                if self._drawn.random() < 0.5:
                    writer.write(FAULT)
                    await writer.drain()
                writer.close()
                return
            before.write(part)
            await before.drain()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
            writer.close()


class Strangers:
    """Send hostile requests, one after another."""

    def __init__(self, soaked: Soaked, target: tuple[str, int], seed: int) -> None:
        self._soaked, self._target, self._drawn = soaked, target, random.Random(seed)

    async def pester(self, over: Callable[[], bool]) -> None:
        """Send requests until it is over; a tenth of a second between two."""
        while not over():
            request = self._drawn.choice(REQUESTS)(self._drawn)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(60):
                    self._soaked.answers[await self._send(request)] += 1
            await asyncio.sleep(0.1)

    async def _send(self, request: Request) -> int:
        path, kind, body, leaves = request
        address = path.encode("utf-8", "replace").decode()
        verb = "GET" if path == "/health" else "POST"
        head = f"{verb} {address} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: {kind}\r\n"
        reader, writer = await asyncio.open_connection(*self._target)
        try:
            writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            if leaves:
                return 0
            status = await reader.readuntil(b"\r\n")
            await reader.read()
            return int(status.split()[1])
        finally:
            writer.close()


class Client:
    """The chains, batch by batch."""

    def __init__(self, soaked: Soaked, port: int, seed: int) -> None:
        self._soaked, self._seed, self._batch = soaked, seed, 0
        limits = RolloutLimits(max_turns=TURNS, max_tool_calls=TURNS, max_images=TURNS + 1)
        self._agent = ImageEditingAgent(
            "scripted",
            backend=ScriptedBackend(self._text),
            client_nodes=[("127.0.0.1", port)],
            settings=AgentSettings(limits=limits, max_concurrent_chains=PROMPTS * GROUP),
            store=ImageStore(max_bytes=32 * 2**20),
        )

    def _text(self, request: GenerationRequest) -> str:
        drawn = random.Random(f"{self._seed}-{request.request_id}")
        if int(request.request_id.rpartition("-")[2]) == TURNS - 1:
            return "Done."
        call = json.dumps(drawn.choice(CALLS))
        if drawn.random() < 2 * FAULTS:
            call = drawn.choice((call[:-3], call.replace("_", "-"), "{" * 500))
        return f"<tool_call>{call}</tool_call>"

    def _conversation(self, prompt: int) -> dict[str, object]:
        drawn = random.Random(f"{self._seed}-{self._batch}-{prompt}")
        image = Image.new("RGB", (96, 96), tuple(drawn.randrange(256) for _ in range(3)))
        left, top = drawn.randrange(60), drawn.randrange(60)
        ImageDraw.Draw(image).ellipse((left, top, left + 30, top + 30), (230, 20, 20))
        content = [{"type": "image", "image": image}, "Remove the red circle."]
        return {"id": f"{self._batch}.{prompt}", "messages": [{"role": "user", "content": content}]}

    async def run(self) -> None:
        """Run one batch, and count what came back."""
        soaked = self._soaked
        self._batch += 1
        result = await self._agent.run([self._conversation(prompt) for prompt in range(PROMPTS)], num_chains=GROUP)
        came = Counter(trajectory.id for trajectory in result)
        soaked.chains += PROMPTS * GROUP
        soaked.lost += PROMPTS * GROUP - len(came)
        soaked.doubled += sum(count - 1 for count in came.values())
        soaked.ends.update(trajectory.stop_reason.value for trajectory in result if trajectory.stop_reason is not None)

    async def close(self) -> None:
        """Close the connections."""
        await self._agent.close()


def sampled(began: float, servers: Sequence[psutil.Process]) -> Sample:
    """Return the memory and the open files of both sides now."""
    this = psutil.Process()
    family = [*servers, *(child for one in servers for child in one.children(recursive=True))]
    memory, files = 0, 0
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            memory, files = memory + process.memory_info().rss, files + process.num_fds()
    return Sample(time.monotonic() - began, this.memory_info().rss / 2**20, memory / 2**20, this.num_fds(), files)


async def soak(minutes: float, every: float, seed: int) -> Soaked:
    """Run everything for some minutes."""
    soaked, began = Soaked(), time.monotonic()

    def over() -> bool:
        return time.monotonic() - began >= 60 * minutes

    flags = ("--model-type", "classical", "--max-body-mb", "1", "--max-pixels", "1000000", "--host", "127.0.0.1")
    before = set(psutil.Process().children())
    with server(*flags) as target:
        servers = [process for process in psutil.Process().children() if process not in before]
        proxy = await Proxy(soaked, target, seed).serve()
        client = Client(soaked, proxy.sockets[0].getsockname()[1], seed)
        pestering = asyncio.create_task(Strangers(soaked, target, seed).pester(over))
        while not over():
            await client.run()
            if not soaked.samples or time.monotonic() - began - soaked.samples[-1].seconds >= every:
                soaked.samples.append(await asyncio.to_thread(sampled, began, servers))
        await pestering
        await client.close()
        proxy.close()
        soaked.left = await asyncio.to_thread(partial(held, target))
    return soaked


def held(target: tuple[str, int]) -> int:
    """Return the requests that the server still has, once it has had ten seconds to let go of them."""
    left = 0
    for _ in range(100):
        status = httpx.get(f"http://{target[0]}:{target[1]}/gpu/status", timeout=10).json()
        left = status["waiting"] + sum(worker["running"] for worker in status["workers"])
        if not left:
            break
        time.sleep(0.1)
    return left


def main() -> None:
    """Soak, print, and write; end with 1 where something was lost or broke."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    soaked = asyncio.run(soak(given.minutes, given.every, given.seed))
    table = Table("", "first", "last", "growth an hour")
    for name in ("client_mib", "server_mib", "client_files", "server_files"):
        first, last = (getattr(soaked.samples[at], name) for at in (0, -1))
        table.add_row(name, f"{first:.1f}", f"{last:.1f}", f"{soaked.slope(name):+.1f}")
    console = Console()
    console.print(table)
    console.print(f"{soaked.chains} chains: {soaked.lost} lost, {soaked.doubled} doubled; {dict(soaked.ends)}")
    console.print(f"{soaked.faults} faults; answers to strangers: {dict(sorted(soaked.answers.items()))}")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_text(given.json, json.dumps(soaked.as_json(), indent=2) + "\n")
    if soaked.lost or soaked.doubled or soaked.broken or soaked.left:
        sys.exit(f"{soaked.broken} answers of a broken server, {soaked.left} requests are left on it")


if __name__ == "__main__":
    main()
