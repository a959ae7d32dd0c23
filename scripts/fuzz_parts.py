"""The parts of `scripts/fuzz.py` that work on this machine alone: texts, images, rows and whole chains."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import ClassVar
from unittest.mock import patch

from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent, RolloutLimits, StopReason
from agentfly.agents.llm_backends import (
    Generation,
    GenerationRequest,
    ScriptedBackend,
)
from agentfly.datasets.check import check_rows
from agentfly.datasets.local import LocalOptions, local_rows
from agentfly.datasets.rows import task_from_row, task_to_row
from agentfly.errors import (
    DatasetError,
    ImageError,
)
from agentfly.evaluators.judge.replies import BrokenReply, read_reply
from agentfly.evaluators.judge.schemes import Question
from agentfly.images import ImageLimits, ImageStore, handle_of, load_image, load_mask
from agentfly.messages import ToolCall, without_thoughts
from agentfly.tools.parsing import native_call, parse_tool_calls
from agentfly.vision.detection.grounding import read_boxes
from tests.fuzz.exchanges import KEY, boxes, ratings, rows
from tests.fuzz.growth import seconds, slower_than_linear
from tests.fuzz.images import source
from tests.fuzz.texts import TOOL_NAMES, dumped, text, value


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


def check_growth(work: Callable[[str], object], given: str) -> None:
    """Raise `Broken` unless four times the text takes about four times as long."""
    if seconds(work, given) < 0.02:
        return
    if slow := slower_than_linear(work, [("it takes", given, given * 4)], 0.08):
        raise Broken(f"{slow[0]}, and far less for a quarter of it")


def check_words(fault: Exception) -> None:
    """Raise `Broken` unless a message can be shown: of a readable length, and without the key."""
    if len(str(fault)) > 2000:
        raise Broken(f"the message has {len(str(fault))} characters: {str(fault)[:300]}")
    if KEY in str(fault):
        raise Broken(f"the message holds the key: {fault}")


class Parsing(Part):
    """Texts of models: tool calls, native arguments, thoughts, a judge's ratings, a detector's boxes."""

    QUESTION: ClassVar = Question("q", {"success": "is it done", "kept": "is the rest kept"}, 10, "Rate.", ("result",))
    TEXTS: ClassVar = (text, text, text, boxes, ratings)

    def _read_ratings(self, given: str) -> None:
        with contextlib.suppress(BrokenReply):
            read_reply(given, self.QUESTION)

    async def case(self, random: Random) -> None:
        """Read one text in every way."""
        self.given = given = random.choice(self.TEXTS)(random)
        readers: list[Callable[[str], object]] = [
            lambda text: parse_tool_calls(text, names=("give_answer",)),
            without_thoughts,
            lambda text: native_call("call_0", "give_answer", text),
            lambda text: read_boxes(text, "a cat. a dog.", (280, 280), (300, 200), "pixels"),
            self._read_ratings,
        ]
        for read in readers:
            found = read(given)
            calls = [found] if isinstance(found, ToolCall) else getattr(found, "calls", ())
            json.dumps([[one.id, one.name, one.arguments, one.error] for one in calls], allow_nan=False)
            check_growth(read, given)


class Loading(Part):
    """Sources of images and of masks, and a store that keeps what was loaded."""

    LIMITS = ImageLimits(max_pixels=1_000_000, timeout=1.0)

    async def case(self, random: Random) -> None:
        """Load one source; what is loaded comes back equal from a store on disk. No name is looked up."""
        self.given = given = source(random)
        with patch.object(socket, "getaddrinfo", side_effect=OSError("no name is looked up")):
            loaded = self._load(load_image, given, ("L", "RGB", "RGBA"))
            self._load(load_mask, given, ("L",))
            if loaded is not None:
                with tempfile.TemporaryDirectory() as folder:
                    handle = ImageStore(folder).put(loaded)
                    if handle_of(ImageStore(folder).get(handle)) != handle:
                        raise Broken("the store gave another image back")
            if isinstance(given, str):
                check_growth(lambda text: load_image(text, self.LIMITS), given)

    def _load(self, load: Callable[..., Image.Image], given: object, modes: tuple[str, ...]) -> Image.Image | None:
        try:
            loaded = load(given, self.LIMITS)
        except ImageError as fault:
            check_words(fault)
            return None
        if loaded.mode not in modes or not loaded.width * loaded.height:
            raise Broken(f"it was loaded as {loaded.mode} {loaded.size}")
        return loaded


class Chains(Part):
    """Whole chains: a scripted policy writes hostile turns for the real tools, beside a chain that does its work."""

    SETTINGS = AgentSettings(limits=RolloutLimits(max_turns=4, wall_clock=60.0, tool_timeout=20.0))

    async def case(self, random: Random) -> None:
        """Run hostile chains and an ordinary one, and read their log again."""
        turns = [text(random) for _ in range(8)]
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
        calls = (native_call(f"call_{n}", random.choice(TOOL_NAMES), dumped(random, value(random))) for n in range(2))
        return tuple(calls)


EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "darken"}}</tool_call>'
ANSWER = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2"}}</tool_call>'
CONTENT = [{"type": "image", "image": Image.linear_gradient("L").resize((24, 24))}, {"type": "text", "text": "Darker."}]


class Rows(Part):
    """Rows of a data set as JSON lines, hostile ones between good ones."""

    async def start(self) -> None:
        """Make the folder, with images that rows may name."""
        self._folder = tempfile.TemporaryDirectory()
        self._place = Path(self._folder.name)
        Image.linear_gradient("L").resize((24, 24)).convert("RGB").save(self._place / "good.png")
        Image.new("L", (24, 24), 255).save(self._place / "mask.png")

    async def stop(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()

    async def case(self, random: Random) -> None:
        """Check all rows, and write and read again those that are tasks."""
        good = [{"id": f"good-{n}", "instruction": "Darker.", "image": "good.png"} for n in range(2)]
        content, whole = rows(random, good)
        self.given = content
        path = self._place / "rows.jsonl"
        path.write_bytes(content)
        try:
            read = list(local_rows(path, None, LocalOptions()))
        except DatasetError as fault:
            check_words(fault)
            if whole:
                raise Broken(f"one row ends all: {fault}") from fault
            return
        report = check_rows(read)
        json.dumps(report.to_json()).encode()
        written = set[str]()
        for row in read:
            with contextlib.suppress(DatasetError, ImageError):
                made = task_to_row(row.task())
                written.add(task_from_row(made).id)
        if whole and not {"good-0", "good-1"} <= written:
            raise Broken(f"a good row is not read: {report.to_json()}")
