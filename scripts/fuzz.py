"""Give hostile inputs to the parts of the package that read what others wrote, and report the first one that breaks it.

    python scripts/fuzz.py --minutes 10                               # all parts, from seed 0
    python scripts/fuzz.py --part parsing --part loading --minutes 1
    python scripts/fuzz.py --part chains --seed 1234 --cases 1        # one input again, as a finding names it

Case N is the same input in every run. An input is a finding when it raises anything but the errors that are declared
for it, logs a bug, takes more than a bound, takes more than ten times as long when it is four times as long, or ends
the work beside it. The inputs are those of `scripts/fuzz_inputs.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import logging
import os
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from fuzz_inputs import REQUESTS, SOURCES, TEXTS, TOOL_NAMES, Request, value
from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent, RolloutLimits, StopReason
from agentfly.agents.llm_backends import Generation, GenerationRequest, ScriptedBackend
from agentfly.aio import TimeLimitExceeded, with_timeout
from agentfly.errors import AgentFlyError, ImageError
from agentfly.evaluators.judge.replies import BrokenReply, read_reply
from agentfly.evaluators.judge.schemes import Question
from agentfly.images import ImageLimits, ImageStore, handle_of, load_image
from agentfly.messages import ToolCall, without_thoughts
from agentfly.serving.image_server import ServerSettings, UploadLimits
from agentfly.serving.image_server.http.app import create_app
from agentfly.tools.parsing import native_call, parse_tool_calls

CPU_SECONDS = 5.0  # of one case at most, in this process
HANG_SECONDS = 90.0  # of one case at most, by the clock


class Broken(Exception):
    """An input is not taken as the package says."""


class Part:
    """What is fuzzed; `given` is the input of the case in progress, for the report."""

    given: object = None

    async def start(self) -> None:
        """Make what all cases share."""

    async def case(self, random: Random) -> None:
        """Give one input to the package. Any exception is a finding."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Let go of what all cases share."""


def cpu_seconds(work: Callable[[str], object], text: str) -> float:
    """Return the processor time of a call; declared errors are results like others."""
    begun = time.thread_time()
    with contextlib.suppress(AgentFlyError):
        work(text)
    return time.thread_time() - begun


def check_growth(work: Callable[[str], object], text: str) -> None:
    """Raise `Broken` unless four times the text takes about four times as long."""
    once = cpu_seconds(work, text)
    if once < 0.02:
        return
    longer = cpu_seconds(work, text * 4)
    if longer > 10 * once and longer > 10 * cpu_seconds(work, text):
        raise Broken(f"{len(text)} characters take {once:.2f} s, four times as many {longer:.2f} s")


class Parsing(Part):
    """Texts of models: tool calls, native arguments, thoughts, a judge's ratings."""

    QUESTION: ClassVar = Question("q", {"success": "is it done", "kept": "is the rest kept"}, 10, "Rate.", ("result",))
    READERS: ClassVar[list[Callable[[str], object]]] = [
        parse_tool_calls,
        without_thoughts,
        lambda text: native_call("call_0", "give_answer", text),
    ]

    async def case(self, random: Random) -> None:
        """Read one text in every way."""
        self.given = text = random.choice(TEXTS)(random)
        with contextlib.suppress(BrokenReply):
            read_reply(text, self.QUESTION)
        for read in self.READERS:
            found = read(text)
            calls = [found] if isinstance(found, ToolCall) else getattr(found, "calls", ())
            json.dumps([[one.id, one.name, one.arguments, one.error] for one in calls])
            check_growth(read, text)


class Loading(Part):
    """Sources of images, and a store that keeps what was loaded."""

    LIMITS = ImageLimits(max_pixels=1_000_000, timeout=1.0)

    async def case(self, random: Random) -> None:
        """Load one source; what is loaded comes back equal from a store on disk."""
        self.given = source = random.choice(SOURCES)(random)
        try:
            loaded = load_image(source, self.LIMITS)  # type: ignore[arg-type]
        except ImageError as fault:
            if len(str(fault)) > 2000:
                raise Broken(f"the message has {len(str(fault))} characters") from fault
        else:
            if loaded.mode not in ("L", "RGB", "RGBA") or not loaded.width * loaded.height:
                raise Broken(f"it was loaded as {loaded.mode} {loaded.size}")
            with tempfile.TemporaryDirectory() as folder:
                handle = ImageStore(folder).put(loaded)
                if handle_of(ImageStore(folder).get(handle)) != handle:
                    raise Broken("the store gave another image back")
        if isinstance(source, str):
            check_growth(lambda text: load_image(text, self.LIMITS), source)


class Requests(Part):
    """Requests to a whole image server with classical engines, whose workers are processes of their own."""

    async def start(self) -> None:
        """Start the server, and wait for its workers."""
        limits = UploadLimits(body_bytes=1_000_000, pixels=1_000_000)
        self.app = create_app(ServerSettings(model_type="classical", limits=limits))
        self._running = self.app.router.lifespan_context(self.app)
        await self._running.__aenter__()
        await self._wait_for_workers()
        self._restarts = self._count_restarts()

    async def stop(self) -> None:
        """End the server and its workers."""
        await self._running.__aexit__(None, None, None)

    async def case(self, random: Random) -> None:
        """Send some requests at once; some clients leave before the answer. Afterwards the server still works."""
        sent = [random.choice(REQUESTS)(random) for _ in range(random.choice((1, 1, 4)))]
        self.given = sent
        for status, body in await asyncio.gather(*map(self._send, sent)):
            if status >= 500 and status not in (503, 504):
                raise Broken(f"the answer is {status}: {body[:300]!r}")
            if status >= 400:
                json.loads(body)["error"]["message"]
        await self._wait_for_workers()
        restarts, self._restarts = self._restarts, self._count_restarts()
        if self._restarts > restarts:
            raise Broken(f"{self._restarts - restarts} workers were ended and started again")

    def _count_restarts(self) -> int:
        return sum(worker.restarts for worker in self.app.state.server.dispatcher.workers)

    async def _send(self, request: Request) -> tuple[int, bytes]:
        """Return status and body of an answer; status 0 for a client that has left before it."""
        path, kind, body, leaves = request
        received, status, answer, over = [{"type": "http.request", "body": body}], 0, b"", asyncio.Event()

        async def receive() -> Mapping[str, object]:
            if received:
                return received.pop()
            if not leaves:
                await over.wait()
            return {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            nonlocal status, answer
            status, answer = message.get("status", status), answer + message.get("body", b"")

        headers = [(b"host", b"127.0.0.1"), (b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
        method = "GET" if path == "/health" else "POST"
        raw = path.encode("utf-8", "replace")
        scope: dict[str, object] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
        }
        scope |= {"path": raw.decode(), "raw_path": raw, "query_string": b"", "root_path": "", "headers": headers}
        scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}
        await self.app(scope, receive, send)  # type: ignore[arg-type]
        over.set()
        return status, answer

    async def _wait_for_workers(self) -> None:
        dispatcher = self.app.state.server.dispatcher
        for _ in range(600):
            if all(worker.ready is not None for worker in dispatcher.workers):
                return
            await asyncio.sleep(0.1)
        raise Broken("a worker does not come back")


class Chains(Part):
    """Whole chains: a scripted policy writes hostile turns for the real tools, beside a chain that does its work."""

    SETTINGS = AgentSettings(limits=RolloutLimits(max_turns=4, wall_clock=60.0, tool_timeout=20.0))

    async def case(self, random: Random) -> None:
        """Run hostile chains and an ordinary one, and read their log again."""
        turns = [random.choice(TEXTS)(random) for _ in range(8)]
        natives = {n: self._native(random) for n in range(8) if random.random() < 0.3}
        self.given = (turns, natives)

        def play(request: GenerationRequest) -> str | Generation:
            turn = int(request.request_id.rpartition("-")[2])
            if request.session_id.startswith("ordinary"):
                return EDIT if turn == 0 else ANSWER
            place = turn + 4 * request.session_id.startswith("b")
            return Generation(turns[place], tool_calls=natives[place]) if place in natives else turns[place]

        tasks = [{"id": name, "messages": [{"role": "user", "content": CONTENT}]} for name in ("a", "ordinary", "b")]
        with tempfile.TemporaryDirectory() as folder:
            agent = ImageEditingAgent("fuzz", backend=ScriptedBackend(play), settings=self.SETTINGS)
            result = await agent.run(tasks, log_dir=folder)
            again = await agent.run(tasks, log_dir=folder)
        if result[1].stop_reason is not StopReason.ANSWERED:
            raise Broken(f"the ordinary chain ended with {result[1].stop_reason}: {result[1].error}")
        if [one.stop_reason for one in again] != [one.stop_reason for one in result]:
            raise Broken("the log holds other chains than were run")

    @staticmethod
    def _native(random: Random) -> tuple[ToolCall, ...]:
        calls = (native_call(f"call_{n}", random.choice(TOOL_NAMES), json.dumps(value(random))) for n in range(2))
        return tuple(calls)


EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "darken"}}</tool_call>'
ANSWER = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2"}}</tool_call>'
CONTENT = [{"type": "image", "image": Image.linear_gradient("L").resize((24, 24))}, {"type": "text", "text": "Darker."}]
PARTS: dict[str, type[Part]] = {"parsing": Parsing, "loading": Loading, "requests": Requests, "chains": Chains}


@dataclass(frozen=True)
class Finding:
    """An input that breaks a part, by the number of its case."""

    part: str
    case: int
    what: str
    given: str

    def __str__(self) -> str:
        again = f"python scripts/fuzz.py --part {self.part} --seed {self.case} --cases 1"
        return f"{self.part}, case {self.case}: {self.what}\n  input: {self.given}\n  again: {again}"


class _Bugs(logging.Handler):
    """Collects the tracebacks that the package logs: each is a bug that a boundary caught."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record that has a traceback."""
        if record.exc_info and record.exc_info[0] is not None:
            lines = traceback.format_exception(*record.exc_info, limit=-4, chain=False)
            self.seen.append(f"{record.getMessage()}\n{''.join(lines)}")


@contextlib.contextmanager
def logged_bugs() -> Iterator[list[str]]:
    """Give the list of the tracebacks that are logged meanwhile."""
    handler = _Bugs()
    logging.getLogger().addHandler(handler)
    try:
        yield handler.seen
    finally:
        logging.getLogger().removeHandler(handler)


def shown(given: object) -> str:
    """Return an input for people, cut to a readable length."""
    try:
        text = ascii(given)
    except RecursionError:
        text = f"{type(given).__name__}, nested too deeply to be shown"
    return text if len(text) <= 600 else f"{text[:500]}... ({len(text)} characters)"


def give_up(name: str, number: int, part: Part) -> None:
    """Report a case that holds the event loop, and end the process: nothing else can."""
    sys.stdout.write(f"{Finding(name, number, f'it takes more than {HANG_SECONDS:g} s', shown(part.given))}\n")
    sys.stdout.flush()
    os._exit(1)


async def run_case(name: str, part: Part, number: int) -> Finding | None:
    """Run one case, and return what it found."""
    watch = threading.Timer(HANG_SECONDS + 30, give_up, (name, number, part))
    watch.daemon = True
    watch.start()
    begun, what = time.process_time(), None
    try:
        with logged_bugs() as bugs:
            await with_timeout(part.case(Random(f"{name} {number}")), HANG_SECONDS)
        if bugs:
            what = f"a bug was logged:\n{bugs[0]}"
        elif (seconds := time.process_time() - begun) > CPU_SECONDS:
            what = f"it takes {seconds:.1f} s of processor time"
    except TimeLimitExceeded:
        what = f"it takes more than {HANG_SECONDS:g} s"
    except Broken as fault:
        what = str(fault)
    except Exception:  # whatever it raises is the finding
        what = f"it raises\n{traceback.format_exc(limit=-4, chain=False)}"
    finally:
        watch.cancel()
    return None if what is None else Finding(name, number, what, shown(part.given))


async def fuzz(
    names: Sequence[str], seed: int, seconds: float, cases: int | None = None, most: int = 1
) -> tuple[list[Finding], int]:
    """Run cases of parts in turn, and return the findings and the number of cases that were run.

    Args:
        names: of the parts.
        seed: number of the first case of each part.
        seconds: after which no further case begins.
        cases: of each part at most.
        most: findings after which it ends.
    """
    end, count, found = time.monotonic() + seconds, 0, list[Finding]()
    async with contextlib.AsyncExitStack() as stack:
        parts = {name: PARTS[name]() for name in names}
        for part in parts.values():
            await part.start()
            stack.push_async_callback(part.stop)
        for number in itertools.count(seed) if cases is None else range(seed, seed + cases):
            for name, part in parts.items():
                if time.monotonic() > end or len(found) >= most:
                    return found, count
                count += 1
                if (finding := await run_case(name, part, number)) is not None:
                    found.append(finding)
    return found, count


def main(arguments: list[str] | None = None) -> int:
    """Fuzz, write the findings to standard output, and return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="time for all parts together")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case of each part")
    parser.add_argument("--cases", type=int, help="cases of each part at most")
    parser.add_argument("--most", type=int, default=1, help="findings after which it ends")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="repeat for more; all by default")
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    try:
        parts = given.part or list(PARTS)
        found, count = asyncio.run(fuzz(parts, given.seed, given.minutes * 60, given.cases, given.most))
    finally:
        logging.disable(logging.NOTSET)
    sys.stdout.write("".join(f"{each}\n\n" for each in found) + f"{count} cases, {len(found)} findings\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
